// The random generator by itself.
#include "bindings/bind.h"
#include "bindings/call.h"
#include "kernels/dropout/args.h"

namespace dlk {
namespace {

// The block of a counter of four words, for the generator's tests.
py::tuple philox(uint64_t key, uint32_t first, uint32_t second, uint32_t third, uint32_t fourth) {
  PhiloxArgs args{key, {first, second, third, fourth}};
  runtime::kernels().philox(args);
  return py::make_tuple(args.words[0], args.words[1], args.words[2], args.words[3]);
}

} // namespace

DLK_BINDINGS(m) {
  m.def("philox", &philox, "Four random 32-bit words of the Philox 4x32-10 generator.");
}

} // namespace dlk
