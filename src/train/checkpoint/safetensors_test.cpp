#include "train/checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/hash.h"

namespace xmoe {
namespace {

class Safetensors : public testing::Test {
 protected:
  Safetensors()
      : path_(std::filesystem::temp_directory_path() /
              fmt::format("xmoe-{}-{}.safetensors", ::getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name())) {}
  ~Safetensors() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

  void write_raw(const std::string& content) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content;
  }
  // A file of this header, with its length before it and `data_bytes` bytes behind it.
  void write_header(const std::string& header, std::size_t data_bytes) const {
    const std::uint64_t length = header.size();
    write_raw(std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, 'x'));
  }
  // The message with which the file is refused, or "accepted".
  std::string refusal() const {
    try {
      const SafetensorsFile file(path_);
      return "accepted";
    } catch (const Error& error) {
      return error.what();
    }
  }
  void expect_refused(const std::string& header, std::size_t data_bytes, const std::string& reason) const {
    write_header(header, data_bytes);
    EXPECT_NE(refusal().find(reason), std::string::npos) << refusal();
    EXPECT_NE(refusal().find(path_.string()), std::string::npos) << refusal();
  }

  std::filesystem::path path_;
};

TEST_F(Safetensors, RoundTripOfEveryDType) {
  Arena arena(Device{}, MemoryTag::workspace);
  std::vector<SafetensorsItem> items;
  for (const DType dtype : {DType::u8, DType::f32, DType::bf16, DType::f16, DType::i32, DType::i64}) {
    const Tensor t = arena.tensor(dtype, {3, 1, 5});
    std::memset(t.raw(), static_cast<int>(items.size()) + 65, t.bytes());
    items.push_back({fmt::format("tensor \"{}\"\n", name_of(dtype)), t});
  }
  items.push_back({"none", arena.tensor(DType::f32, {0, 7})});
  items.push_back({"four", arena.zeros(DType::f32, {1, 2, 3, 4})});
  const auto written = write_safetensors(path_, items, {{"made by", "a test"}, {"quote", "\"\\\""}});
  EXPECT_EQ(written.bytes, std::filesystem::file_size(path_));
  EXPECT_EQ(written.hash, hash64(read_text_file(path_)));

  const SafetensorsFile file(path_);
  ASSERT_EQ(file.entries().size(), items.size());
  EXPECT_EQ(file.metadata().at("quote"), "\"\\\"");
  for (const auto& item : items) {
    const auto* entry = file.find(item.name);
    ASSERT_NE(entry, nullptr) << item.name;
    EXPECT_EQ(entry->dtype, item.held.data.dtype());
    EXPECT_EQ(entry->shape, item.held.data.shape());
    const Tensor copy = file.read(item.name, arena);
    EXPECT_TRUE(copy.bytes() == 0 || std::memcmp(copy.raw(), item.held.data.raw(), copy.bytes()) == 0);
  }
  EXPECT_EQ(file.find("other"), nullptr);
  EXPECT_THROW(file.read("other", arena), Error);
  // The tensors' bytes begin on a multiple of eight.
  EXPECT_EQ((written.bytes -
             [&] {
               std::uint64_t bytes = 0;
               for (const auto& item : items) bytes += item.held.data.bytes();
               return bytes;
             }()) %
                8,
            0U);
}

TEST_F(Safetensors, LargeTensorGoesInPieces) {
  Arena arena(Device{}, MemoryTag::workspace);
  const Tensor t = arena.tensor(DType::i32, {700001});
  for (std::int32_t i = 0; i < 700001; ++i) t.data<std::int32_t>()[i] = i * 31;
  const auto written = write_safetensors(path_, std::vector<SafetensorsItem>{{"t", t}});
  EXPECT_EQ(written.hash, hash64(read_text_file(path_)));
  EXPECT_EQ(std::memcmp(SafetensorsFile(path_).find("t")->bytes.data(), t.raw(), t.bytes()), 0);
}

TEST_F(Safetensors, NoTensorsAndScalars) {
  write_safetensors(path_, {});
  EXPECT_TRUE(SafetensorsFile(path_).entries().empty());
  write_header(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )", 4);
  EXPECT_EQ(SafetensorsFile(path_).find("s")->shape, Shape({1}));
}

TEST_F(Safetensors, RefusesHostileLengths) {
  write_raw("");
  EXPECT_NE(refusal().find("0 bytes"), std::string::npos);
  write_raw("1234567");
  EXPECT_NE(refusal().find("7 bytes"), std::string::npos);
  write_raw(std::string(8, '\xff') + "{}");
  EXPECT_NE(refusal().find("at most 100000000"), std::string::npos);
  write_raw(std::string("\x40\0\0\0\0\0\0\0{}", 10));
  EXPECT_NE(refusal().find("truncated"), std::string::npos);
  write_raw(std::string(8, '\0'));
  EXPECT_NE(refusal().find("does not begin with {"), std::string::npos);
}

TEST_F(Safetensors, RefusesMalformedHeaders) {
  expect_refused(R"( {})", 0, "does not begin with {");
  expect_refused(R"([1])", 0, "does not begin with {");
  expect_refused("{}\n", 0, "padded with spaces");
  expect_refused("{} x", 0, "padded with spaces");
  expect_refused("{}{}", 0, "not valid JSON");
  expect_refused(R"({"a":})", 0, "not valid JSON");
  expect_refused("{\"\xff\":1}", 0, "not valid JSON");
  expect_refused(R"({"a":1})", 0, "is not an object");
  expect_refused("{\"a\":" + std::string(1000000, '[') + "}", 0, "levels deep");
  expect_refused(R"({"__metadata__":{"a":1}})", 0, "not a string");
  expect_refused(R"({"__metadata__":[]})", 0, "not an object");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1]}})", 4, "no data_offsets");
  expect_refused(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "no shape");
  expect_refused(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "no dtype");
  expect_refused(R"({"a":{"dtype":"F8","shape":[4],"data_offsets":[0,4]}})", 4, "F8");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4, "unknown field \"x\"");
  expect_refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "non-negative");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "non-negative");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})", 4, "5 dimensions");
  expect_refused(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                 "too large");
  expect_refused(R"({"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                 "too large");
  expect_refused(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
                 "too large");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "reversed");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "not a pair");
}

TEST_F(Safetensors, RefusesDuplicateKeys) {
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  expect_refused("{" + a + "," + a + "}", 4, "\"a\" appears twice");
  expect_refused(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
                 "\"dtype\" appears twice");
  // The same key in different objects is ordinary.
  write_header("{" + a + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8);
  EXPECT_EQ(refusal(), "accepted");
}

TEST_F(Safetensors, RefusesOverlapsHolesAndTruncation) {
  const auto two = [](int a, int b, int c, int d) {
    return fmt::format(
        R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},"b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
        b - a, a, b, d - c, c, d);
  };
  write_header(two(0, 4, 4, 8), 8);
  EXPECT_EQ(refusal(), "accepted");
  write_header(two(4, 8, 0, 4), 8);
  EXPECT_EQ(refusal(), "accepted");
  write_header(two(4, 4, 0, 4), 4);  // an empty tensor at the end
  EXPECT_EQ(refusal(), "accepted");
  expect_refused(two(0, 4, 3, 8), 8, "overlap");
  expect_refused(two(0, 8, 0, 8), 8, "overlap");
  expect_refused(two(0, 4, 5, 8), 8, "hole");
  expect_refused(two(1, 4, 4, 8), 8, "hole");
  expect_refused(two(0, 4, 4, 8), 9, "end at byte 8 of the data, the file holds 9");
  expect_refused(two(0, 4, 4, 8), 7, "truncated");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "takes 8 bytes");
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  Arena arena(Device{}, MemoryTag::workspace);
  write_safetensors(path_, std::vector<SafetensorsItem>{{"a", arena.zeros(DType::f32, {3})},
                                                        {"b", arena.zeros(DType::u8, {5})}});
  const std::string whole = read_text_file(path_);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    write_raw(whole.substr(0, length));
    EXPECT_NE(refusal(), "accepted") << length;
  }
}

TEST_F(Safetensors, MissingFileIsNamed) { EXPECT_NE(refusal().find(path_.string()), std::string::npos); }

}  // namespace
}  // namespace xmoe
