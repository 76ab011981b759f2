#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <iterator>
#include <string>
#include <utility>

#include "base/error.h"
#include "support/interruptions.h"

namespace xmoe {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  FileTest()
      : folder_(fs::temp_directory_path() /
                fmt::format("xmoe_file_test_{}_{}", getpid(),
                            ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::create_directories(folder_);
  }
  ~FileTest() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  fs::path path(const std::string& name) const { return folder_ / name; }

  static std::string message_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

 private:
  fs::path folder_;
};

TEST_F(FileTest, WritesAndReadsBack) {
  FileWriter writer(path("a"));
  writer.write("abc");
  const std::string large((std::size_t{3} << 20) + 5, 'x');  // more than the buffer holds
  writer.write(large);
  writer.write("");
  EXPECT_EQ(writer.written(), large.size() + 3);
  writer.close(/*sync=*/true);
  EXPECT_EQ(read_text_file(path("a")), "abc" + large);
}

TEST_F(FileTest, AnEmptyFileMapsToNothing) {
  FileWriter(path("empty")).close(/*sync=*/false);
  EXPECT_TRUE(MappedFile(path("empty")).bytes().empty());
  EXPECT_EQ(read_text_file(path("empty")), "");
}

TEST_F(FileTest, MapsMove) {
  write_file_atomically(path("a"), "content");
  MappedFile first(path("a"));
  MappedFile second(std::move(first));
  EXPECT_EQ(second.text(), "content");
  MappedFile third;
  third = std::move(second);
  EXPECT_EQ(third.text(), "content");
  EXPECT_EQ(third.path(), path("a"));
}

TEST_F(FileTest, ErrorsNameThePathAndTheReason) {
  const std::string missing = message_of([&] { read_text_file(path("missing")); });
  EXPECT_NE(missing.find(path("missing").string()), std::string::npos) << missing;
  EXPECT_NE(missing.find("No such file"), std::string::npos) << missing;
  const std::string folder = message_of([&] { read_text_file(path("")); });
  EXPECT_NE(folder.find("directory"), std::string::npos) << folder;
  const std::string nowhere = message_of([&] { FileWriter(path("no/such/folder/x")); });
  EXPECT_NE(nowhere.find("cannot create"), std::string::npos) << nowhere;
}

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNothingBehind) {
  write_file_atomically(path("state"), "first");
  const MappedFile before(path("state"));
  write_file_atomically(path("state"), "second");
  EXPECT_EQ(before.text(), "first");  // a reader of the old file keeps it whole
  EXPECT_EQ(read_text_file(path("state")), "second");
  EXPECT_EQ(std::distance(fs::directory_iterator(path("")), fs::directory_iterator()), 1);
}

// Opening waits for a reader, and writing for it to read: both while signals come.
TEST_F(FileTest, SignalsInterruptNothing) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  const std::string text(std::size_t{1} << 18, 'x');  // more than a pipe holds
  std::string read;
  {
    const Interruptions interruptions([&] {
      const int fd = open(path("pipe").c_str(), O_RDONLY | O_NONBLOCK);
      pollfd input{fd, POLLIN, 0};
      constexpr int kGiveUp = 10000;  // ms: when the writer did not even open it
      char buffer[4096];
      while (poll(&input, 1, kGiveUp) == 1) {
        const ssize_t n = ::read(fd, buffer, sizeof(buffer));
        if (n <= 0) break;
        read.append(buffer, static_cast<std::size_t>(n));
      }
      close(fd);
    });
    FileWriter writer(path("pipe"));
    writer.write(text);
    writer.close(/*sync=*/false);
  }
  EXPECT_EQ(read.size(), text.size());
}

TEST(Uninterrupted, CallsAgainOnlyWhatASignalInterrupted) {
  int calls = 0;
  EXPECT_EQ(uninterrupted([&] {
              ++calls;
              errno = EINTR;
              return calls < 3 ? -1 : 7;
            }),
            7);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(uninterrupted([&] {
              ++calls;
              errno = ENOSPC;
              return -1;
            }),
            -1);
  EXPECT_EQ(calls, 4);
}

// A device that is always full, where the system has one.
TEST(FileWriterTest, AFullDiskSaysWhatWasNeeded) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  FileWriter writer("/dev/full");
  writer.write("some text");
  try {
    writer.close(/*sync=*/false);
    FAIL() << "a full disk was not noticed";
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find("/dev/full"), std::string::npos) << message;
    EXPECT_NE(message.find("needed 9 more bytes"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace xmoe
