// Arrays out: results on memory of the pool, as the kind of array that came in.
#include "bindings/arrays/exchange.h"
#include "bindings/bind.h"
#include "bindings/fast_call.h"
#include "bindings/gil.h"
#include "bindings/made_by_init.h"
#include "bindings/torch_internals/torch_storage.h"
#include "runtime/pool.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

namespace dlk {
namespace {

using runtime::kBufferAlignment;

// Bytes of a new array; throws std::bad_alloc when they cannot be counted.
size_t bytes_of(DType dtype, int ndim, const int64_t* shape) {
  int64_t bytes = item_size(dtype);
  bool empty = false;
  for (int dim = 0; dim < ndim; ++dim) {
    if (shape[dim] < 0)
      throw std::invalid_argument(
          text("expected a shape without negative sizes, got ", shape_text(ndim, shape)));
    empty = empty || shape[dim] == 0;
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(shape[dim], 1), &bytes))
      throw std::bad_alloc();
  }
  return empty ? 0 : static_cast<size_t>(bytes);
}

// Memory of the pool that several owners share.
class SharedBuffer {
public:
  explicit SharedBuffer(size_t bytes) : buffer_(bytes) {
    if (bytes != 0 && buffer_.data() == nullptr)
      throw std::bad_alloc();
  }
  void* data() const { return buffer_.data(); }

private:
  runtime::ScopedBuffer buffer_;
};

py::capsule capsule_of(void* data, size_t bytes) {
  // The size goes along as the capsule's context.
  PyObject* capsule = PyCapsule_New(data, nullptr, [](PyObject* self) {
    runtime::release_buffer(PyCapsule_GetPointer(self, nullptr),
                            reinterpret_cast<uintptr_t>(PyCapsule_GetContext(self)));
  });
  if (capsule == nullptr) {
    runtime::release_buffer(data, bytes);
    throw py::error_already_set();
  }
  PyCapsule_SetContext(capsule, reinterpret_cast<void*>(bytes));
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::object make_numpy(DType dtype, TensorView& view, size_t bytes) {
  const int64_t item_bytes = item_size(dtype);
  py::array::StridesContainer strides(view.strides, view.strides + view.ndim);
  for (auto& stride : *strides)
    stride *= item_bytes;
  py::array::ShapeContainer shape(view.shape, view.shape + view.ndim);
  if (bytes < runtime::kPoolMinimumBytes) { // NumPy's own small blocks are the fastest
    py::array array(numpy_dtype(dtype), std::move(shape), std::move(strides));
    view.data = array.mutable_data();
    return std::move(array);
  }
  view.data = runtime::acquire_buffer(bytes);
  if (view.data == nullptr)
    throw std::bad_alloc();
  const py::capsule owner = capsule_of(view.data, bytes);
  return py::array(numpy_dtype(dtype), std::move(shape), std::move(strides), view.data, owner);
}

// A managed tensor in one block of memory: this struct, the shape, the strides and, where it is
// small, the data. Its deleter needs no GIL.
struct Export {
  dlpack::ManagedTensorVersioned managed;
  void* pool_data; // nullptr: the data is in this block
  size_t pool_bytes;

  static void destroy(dlpack::ManagedTensorVersioned* managed) {
    auto* self = static_cast<Export*>(managed->context);
    if (self->pool_data)
      runtime::release_buffer(self->pool_data, self->pool_bytes);
    std::free(self);
  }
};

void fill_tensor(dlpack::Tensor& tensor, void* data, DType dtype, int ndim, int64_t* dims,
                 const int64_t* shape, const int64_t* strides) {
  std::copy_n(shape, ndim, dims);
  std::copy_n(strides, ndim, dims + ndim);
  tensor = {data, {dlpack::kDeviceCpu, 0}, ndim, dlpack_type(dtype), dims, dims + ndim, 0};
}

py::object make_exchange(const TensorView& like, DType dtype, TensorView& view, size_t bytes) {
  const bool from_pool = bytes >= runtime::kPoolMinimumBytes;
  const size_t header_bytes = sizeof(Export) + 2 * view.ndim * sizeof(int64_t);
  const size_t inline_bytes = from_pool || bytes == 0 ? 0 : bytes + kBufferAlignment;
  char* block = static_cast<char*>(std::malloc(header_bytes + inline_bytes));
  if (block == nullptr)
    throw std::bad_alloc();
  auto* self = reinterpret_cast<Export*>(block);
  self->pool_data = nullptr;
  self->pool_bytes = bytes;
  view.data = nullptr; // as DLPack wants it of an empty tensor
  if (from_pool) {
    view.data = self->pool_data = runtime::acquire_buffer(bytes);
    if (view.data == nullptr) {
      std::free(block);
      throw std::bad_alloc();
    }
  } else if (bytes != 0) {
    const auto end = reinterpret_cast<uintptr_t>(block + header_bytes);
    view.data = block + header_bytes + (-end % kBufferAlignment);
  }
  self->managed = {{dlpack::kMajorVersion, dlpack::kMinorVersion}, self, Export::destroy, 0, {}};
  fill_tensor(self->managed.tensor, view.data, dtype, view.ndim,
              reinterpret_cast<int64_t*>(block + sizeof(Export)), view.shape, view.strides);
  void* object = nullptr;
  const ExchangeType type = exchange_type(like.array);
  if (type.api->managed_tensor_to_object(&self->managed, &object) != 0)
    throw py::error_already_set(); // the tensor is theirs, even now
  auto tensor = py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
  if (const ExchangeType made = exchange_type(tensor); made.is_torch)
    make_resizable(tensor, made.tensor_place);
  return tensor;
}

// What from_dlpack of another library is given: memory that can be exported through DLPack any
// number of times.
class Exporter : public MadeByInit {
public:
  Exporter(std::shared_ptr<SharedBuffer> buffer, DType dtype, const TensorView& view)
      : buffer_(std::move(buffer)), dtype_(dtype), ndim_(view.ndim),
        dims_(new int64_t[2 * view.ndim + 1]) {
    std::copy_n(view.shape, ndim_, dims_.get());
    std::copy_n(view.strides, ndim_, dims_.get() + ndim_);
  }

  py::object dlpack(const py::object& max_version) const {
    const bool versioned =
        !max_version.is_none() && max_version.cast<std::pair<int, int>>().first >= 1;
    if (!versioned)
      return capsule<dlpack::ManagedTensor>(dlpack::kCapsuleName);
    return capsule<dlpack::ManagedTensorVersioned>(dlpack::kVersionedCapsuleName);
  }

private:
  template <class Managed> struct Shared {
    Managed managed{};
    std::shared_ptr<SharedBuffer> buffer;
    std::unique_ptr<int64_t[]> dims;
  };

  template <class Managed> py::object capsule(const char* name) const {
    auto shared = std::make_unique<Shared<Managed>>();
    shared->buffer = buffer_;
    shared->dims.reset(new int64_t[2 * ndim_ + 1]);
    fill_tensor(shared->managed.tensor, buffer_->data(), dtype_, ndim_, shared->dims.get(),
                dims_.get(), dims_.get() + ndim_);
    if constexpr (std::is_same_v<Managed, dlpack::ManagedTensorVersioned>)
      shared->managed.version = {dlpack::kMajorVersion, dlpack::kMinorVersion};
    shared->managed.context = shared.get();
    shared->managed.deleter = [](Managed* managed) {
      delete static_cast<Shared<Managed>*>(managed->context);
    };
    // Runs while the capsule still has its first name, that is, when nobody took the tensor.
    PyObject* made = PyCapsule_New(&shared->managed, name, [](PyObject* self) {
      const char* current = PyCapsule_GetName(self);
      if (std::strncmp(current, "used_", 5) == 0)
        return;
      auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(self, current));
      managed->deleter(managed);
    });
    if (made == nullptr)
      throw py::error_already_set();
    shared.release();
    return py::reinterpret_steal<py::object>(made);
  }

  std::shared_ptr<SharedBuffer> buffer_;
  DType dtype_;
  int ndim_;
  std::unique_ptr<int64_t[]> dims_;
};

py::object from_dlpack_of(const py::object& array) {
  if (py::hasattr(array, "__array_namespace__"))
    return array.attr("__array_namespace__")().attr("from_dlpack");
  const std::string module = py::str(py::type::of(array).attr("__module__"));
  const std::string root = module.substr(0, module.find('.'));
  const py::dict modules = py::module_::import("sys").attr("modules");
  const bool known = modules.contains(root) && py::hasattr(modules[root.c_str()], "from_dlpack");
  DLK_CHECK_TYPE(known, "results like ", root,
                 "'s arrays cannot be made: it has no from_dlpack function");
  return modules[root.c_str()].attr("from_dlpack");
}

py::object make_dlpack(const TensorView& like, DType dtype, TensorView& view, size_t bytes) {
  auto buffer = std::make_shared<SharedBuffer>(bytes);
  view.data = buffer->data();
  const py::object result =
      from_dlpack_of(like.array)(py::cast(make_by_init<Exporter>(std::move(buffer), dtype, view)));
  // The result is written after this: it has to be on the memory it was given, not on a copy.
  if (bytes != 0) {
    const TensorView made = view_of(result, "from_dlpack", "result");
    DLK_CHECK_TYPE(made.data == view.data, "results like this array cannot be made: its "
                                           "library's from_dlpack copies");
  }
  return result;
}

// The integer nearest to `magnitude`, ties to even; exact below 2^52.
double round_to_even(double magnitude) {
  constexpr double kShift = 4503599627370496.0; // 2^52: above it there are no fractions
  return magnitude >= kShift ? magnitude : (magnitude + kShift) - kShift;
}

// The bits of `value` as a 16-bit float, rounded once, to nearest even.
uint16_t half_bits(double value, int mantissa_bits, int minimum_exponent) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const int infinity = 0x7fff >> mantissa_bits << mantissa_bits;
  if (std::isnan(value))
    return static_cast<uint16_t>(sign | infinity | 1 << (mantissa_bits - 1));
  const double magnitude = std::fabs(value);
  int exponent = minimum_exponent;
  if (magnitude >= std::ldexp(1.0, minimum_exponent))
    exponent = std::min(std::ilogb(magnitude), 200);
  // In units of the last place a normal number lies in [2^m, 2^(m+1)]; its top bit and a carry out
  // of the rounding both count up the exponent field.
  const double units = round_to_even(std::ldexp(magnitude, mantissa_bits - exponent));
  const double bits = units + std::ldexp(exponent - minimum_exponent, mantissa_bits);
  return static_cast<uint16_t>(sign | static_cast<int>(std::min<double>(bits, infinity)));
}

template <class T> void store(void* destination, T value) {
  std::memcpy(destination, &value, sizeof(T));
}

void store_scalar(void* destination, DType dtype, double value) {
  switch (dtype) {
  case DType::float32:
    return store(destination, static_cast<float>(value));
  case DType::float64:
    return store(destination, value);
  case DType::bfloat16:
    return store(destination, half_bits(value, 7, -126));
  case DType::float16:
    return store(destination, half_bits(value, 10, -14));
  case DType::bool8:
    return store(destination, static_cast<uint8_t>(value != 0));
  case DType::uint8:
    return store(destination, static_cast<uint8_t>(value));
  case DType::int8:
    return store(destination, static_cast<int8_t>(value));
  case DType::int16:
    return store(destination, static_cast<int16_t>(value));
  case DType::uint16:
    return store(destination, static_cast<uint16_t>(value));
  case DType::int32:
    return store(destination, static_cast<int32_t>(value));
  case DType::uint32:
    return store(destination, static_cast<uint32_t>(value));
  case DType::int64:
    return store(destination, static_cast<int64_t>(value));
  case DType::uint64:
    return store(destination, static_cast<uint64_t>(value));
  }
}

} // namespace

py::object make_array(const TensorView& like, DType dtype, int ndim, const int64_t* shape,
                      const int64_t* strides, TensorView& view) {
  const size_t bytes = bytes_of(dtype, ndim, shape);
  view.dtype = dtype;
  view.kind = like.kind;
  view.access = Access::writable;
  view.ndim = ndim;
  std::copy_n(shape, ndim, view.shape);
  if (strides && bytes != 0)
    std::copy_n(strides, ndim, view.strides);
  else
    fill_row_major(ndim, shape, view.strides);
  switch (like.kind) {
  case ArrayKind::numpy:
    view.array = make_numpy(dtype, view, bytes);
    break;
  case ArrayKind::exchange:
    view.array = make_exchange(like, dtype, view, bytes);
    break;
  case ArrayKind::dlpack:
    view.array = make_dlpack(like, dtype, view, bytes);
    break;
  }
  view.owner = view.array;
  return view.array;
}

void dense_strides_like(const TensorView& like, int64_t* strides) {
  if (like.dense()) {
    std::copy_n(like.strides, like.ndim, strides);
    return;
  }
  // From the outermost dimension in memory to the innermost. An expanded dimension (stride 0)
  // has no place in the order and stays where it is.
  int order[kMaxDims];
  for (int dim = 0; dim < like.ndim; ++dim) {
    order[dim] = dim;
    for (int place = dim, other = dim - 1; other >= 0 && like.strides[dim] != 0; --other) {
      const int64_t outer = std::llabs(like.strides[order[other]]);
      if (outer >= std::llabs(like.strides[dim]))
        break;
      if (outer != 0) {
        std::swap(order[place], order[other]);
        place = other;
      }
    }
  }
  int64_t stride = 1;
  for (int place = like.ndim - 1; place >= 0; --place) {
    strides[order[place]] = stride;
    stride *= std::max<int64_t>(like.shape[order[place]], 1);
  }
}

py::object make_array_like(const TensorView& like, DType dtype, TensorView& view) {
  int64_t strides[kMaxDims];
  dense_strides_like(like, strides);
  return make_array(like, dtype, like.ndim, like.shape, strides, view);
}

py::object returned(const py::object& made) {
  const bool is_scalar =
      py::isinstance<py::array>(made) && py::reinterpret_borrow<py::array>(made).ndim() == 0;
  return is_scalar ? py::object(made[py::tuple()]) : made;
}

py::object make_scalar(const TensorView& like, DType dtype, double value) {
  TensorView view;
  if (like.kind == ArrayKind::dlpack) {
    // Such libraries may read at once, so the value goes in first.
    auto buffer = std::make_shared<SharedBuffer>(static_cast<size_t>(item_size(dtype)));
    store_scalar(buffer->data(), dtype, value);
    view.ndim = 0;
    return from_dlpack_of(like.array)(
        py::cast(make_by_init<Exporter>(std::move(buffer), dtype, view)));
  }
  make_array(like, dtype, 0, nullptr, nullptr, view);
  store_scalar(view.data, dtype, value);
  return returned(view.array);
}

TensorView contiguous_copy(const TensorView& source) {
  TensorView view;
  const size_t bytes = bytes_of(source.dtype, source.ndim, source.shape);
  view.dtype = source.dtype;
  view.kind = source.kind;
  view.ndim = source.ndim;
  std::copy_n(source.shape, source.ndim, view.shape);
  fill_row_major(view.ndim, view.shape, view.strides);
  view.array = source.array; // so that results made like the copy are made like the source
  view.owner = py::none();
  if (bytes != 0) {
    view.data = runtime::acquire_buffer(bytes);
    if (view.data == nullptr)
      throw std::bad_alloc();
    view.owner = capsule_of(view.data, bytes);
    if (bytes >= runtime::kPoolMinimumBytes) {
      with_gil_released([&] { copy_elements(source, view); });
    } else {
      copy_elements(source, view);
    }
  }
  return view;
}

void make_contiguous(TensorView& view) {
  if (!view.contiguous())
    view = contiguous_copy(view);
}

// Of an array of this shape and these strides, in elements.
static py::object overlaps_itself_at(const py::tuple& shape, const py::tuple& strides) {
  constexpr const char* operation = "overlaps_itself";
  TensorView view;
  view.ndim = int(shape.size());
  DLK_CHECK(view.ndim <= kMaxDims && shape.size() == strides.size(), operation,
            ": strides: expected as many as sizes, at most ", kMaxDims);
  for (int dim = 0; dim < view.ndim; ++dim) {
    view.shape[dim] = as_integer(shape[size_t(dim)], operation, "shape", 0);
    view.strides[dim] = as_integer(strides[size_t(dim)], operation, "strides");
  }
  return py::bool_(overlaps_itself(view));
}

DLK_BINDINGS(module) {
  using namespace py::literals;
  def_fast<&overlaps_itself_at>(module, "overlaps_itself",
                                "Whether two elements of an array may lie in the same memory.",
                                {"shape", "strides"});
  // Keywords of the protocol that change nothing for fresh CPU memory are accepted.
  py::class_<Exporter>(module, "Exporter", "Memory of this library, for another's from_dlpack.")
      .def(
          "__dlpack__",
          [](const Exporter& self, const py::object&, const py::object& max_version,
             const py::object&, const py::object&) { return self.dlpack(max_version); },
          py::kw_only(), "stream"_a = py::none(), "max_version"_a = py::none(),
          "dl_device"_a = py::none(), "copy"_a = py::none())
      .def("__dlpack_device__",
           [](const Exporter&) { return py::make_tuple(dlpack::kDeviceCpu, 0); });
}

} // namespace dlk
