// Finds arrays that share memory among many: threads would write what others read.
#pragma once

#include "bindings/arrays/tensor.h"

#include <deque>
#include <vector>

namespace dlk {

class SharedMemory {
public:
  // Called `name`[index]. Of two arrays one of which is written no byte may be the same.
  void add(const TensorView& view, const char* name, size_t index, bool is_written);

  // The same, of a row-major array.
  void add(const FlatView& view, const char* name, size_t index, bool is_written);

  // Lets an array that is only read be exactly the one that is called `name` and has its index.
  void allow_as(const char* name) { allowed_ = name; }

  // An error text for the first two that share a byte, or "".
  std::string find();

private:
  struct Array {
    uintptr_t low, high; // the bytes that it spans
    const char* name;
    size_t index;
    bool is_written;
    const TensorView* view; // nullptr for a row-major one
  };
  static bool is_before(const Array& a, const Array& b);
  static bool same_place(const Array& a, const Array& b);
  bool share(const Array& a, const Array& b) const;

  std::vector<Array> arrays_;
  std::deque<TensorView> views_;
  const char* allowed_ = nullptr;
};

} // namespace dlk
