// A stretch of time that torch's profiler shows under a name.
#pragma once

namespace dlk {

// Whether a profiler runs in this thread; nullptr without torch.
extern bool (*torch_has_callbacks)();

class ProfiledRange {
public:
  explicit ProfiledRange(const char* operation) {
    if (torch_has_callbacks && torch_has_callbacks())
      start(operation);
  }
  ~ProfiledRange() {
    if (record_)
      finish();
  }
  ProfiledRange(const ProfiledRange&) = delete;
  ProfiledRange& operator=(const ProfiledRange&) = delete;

private:
  void start(const char* operation);
  void finish();

  void* record_ = nullptr;
};

} // namespace dlk
