#include "data/indexed_dataset/indexed_dataset.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "data/support/temporary_folder.h"

namespace xmoe {
namespace {

using Document = std::vector<std::int32_t>;

void write_dataset(const std::filesystem::path& prefix, const std::vector<Document>& documents,
                   std::int64_t vocab_size) {
  IndexedDatasetWriter writer(prefix, vocab_size);
  for (const auto& document : documents) {
    // In two parts, as a large document comes.
    const auto half = document.size() / 2;
    writer.append(std::span(document).first(half));
    writer.append(std::span(document).subspan(half));
    writer.end_document();
  }
  writer.finish();
}

std::vector<Document> read_all(const IndexedDataset& dataset) {
  std::vector<Document> documents;
  for (std::int64_t d = 0; d < dataset.documents(); ++d) {
    auto& document = documents.emplace_back(static_cast<std::size_t>(dataset.document_length(d)));
    dataset.read(d, 0, document);
  }
  return documents;
}

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// An index of two documents: sequences of 3 and 2 tokens, and of 4.
struct Index {
  std::string magic{"MMIDIDX\0\0", 9};
  std::uint64_t version = 1;
  std::uint8_t type = 8;
  std::uint64_t sequences = 3;
  std::uint64_t entries = 3;
  std::vector<std::int32_t> lengths{3, 2, 4};
  std::vector<std::int64_t> offsets{0, 6, 10};
  std::vector<std::int64_t> documents{0, 2, 3};

  std::string bytes() const {
    std::string all = magic;
    append(all, version);
    append(all, type);
    append(all, sequences);
    append(all, entries);
    for (const auto value : lengths) append(all, value);
    for (const auto value : offsets) append(all, value);
    for (const auto value : documents) append(all, value);
    return all;
  }
};

std::string bin_of(std::size_t tokens) {
  std::string bytes;
  for (std::size_t i = 0; i < tokens; ++i) append(bytes, static_cast<std::uint16_t>(i + 1));
  return bytes;
}

TEST(IndexedDataset, ReadsAFileWrittenByHand) {
  const TemporaryFolder folder;
  folder.write("a.idx", Index().bytes());
  folder.write("a.bin", bin_of(9));
  const IndexedDataset dataset(folder / "a");
  EXPECT_EQ(dataset.documents(), 2);
  EXPECT_EQ(dataset.sequences(), 3);
  EXPECT_EQ(dataset.tokens(), 9);
  EXPECT_EQ(read_all(dataset), (std::vector<Document>{{1, 2, 3, 4, 5}, {6, 7, 8, 9}}));
  Document part(2);
  dataset.read(1, 1, part);
  EXPECT_EQ(part, (Document{7, 8}));
  EXPECT_THROW(dataset.read(1, 3, part), InvariantError);
}

TEST(IndexedDataset, TheWriterWritesTheSameBytes) {
  const TemporaryFolder folder;
  write_dataset(folder / "a", {{1, 2, 3}, {4}}, 100);
  Index expected;
  expected.sequences = 2;
  expected.lengths = {3, 1};
  expected.offsets = {0, 6};
  expected.documents = {0, 1, 2};
  EXPECT_EQ(read_text_file(folder / "a.idx"), expected.bytes());
  EXPECT_EQ(read_text_file(folder / "a.bin"), bin_of(4));
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder / "")) ++files;
  EXPECT_EQ(files, 2U) << "temporary files are left";
}

TEST(IndexedDataset, RoundTripWithBothTokenTypes) {
  const std::vector<Document> documents{{0, 1, 65498}, {}, {7}, {65499 - 1, 2, 3, 4, 5, 6, 7, 8}};
  for (const std::int64_t vocab_size : {65499, 65500, 200'000}) {
    const TemporaryFolder folder;
    write_dataset(folder / "nested" / "a", documents, vocab_size);
    const IndexedDataset dataset(folder / "nested" / "a");
    EXPECT_EQ(dataset.type(), vocab_size < 65500 ? TokenType::u16 : TokenType::i32);
    EXPECT_EQ(read_all(dataset), documents);
    dataset.check_token_ids(vocab_size);
  }
}

TEST(IndexedDataset, NoDocuments) {
  const TemporaryFolder folder;
  write_dataset(folder / "a", {}, 100);
  const IndexedDataset dataset(folder / "a");
  EXPECT_EQ(dataset.documents(), 0);
  EXPECT_EQ(dataset.tokens(), 0);
  dataset.check_token_ids(1);
}

TEST(IndexedDataset, AnUnfinishedWriterLeavesTheOldPair) {
  const TemporaryFolder folder;
  write_dataset(folder / "a", {{1, 2}}, 100);
  {
    const Document document{3};
    IndexedDatasetWriter writer(folder / "a", 100);
    writer.append(document);
    writer.end_document();
  }
  EXPECT_EQ(read_all(IndexedDataset(folder / "a")), (std::vector<Document>{{1, 2}}));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.bin.tmp"));
}

TEST(IndexedDataset, NamesDocumentAndOffsetOfABadTokenId) {
  const TemporaryFolder folder;
  write_dataset(folder / "a", {{1, 2}, {}, {3, 50, 4}, {60}}, 100);
  const IndexedDataset dataset(folder / "a");
  dataset.check_token_ids(61);
  const std::string message = error_of([&] { dataset.check_token_ids(50); });
  EXPECT_NE(message.find("a.bin: document 2, offset 1: token id 50; expected 0 to 49"), std::string::npos)
      << message;
}

TEST(IndexedDataset, SixtyFourBitIdsThatDoNotFitAreNotTokens) {
  const TemporaryFolder folder;
  Index index;
  index.type = 5;
  index.sequences = 1;
  index.entries = 2;
  index.lengths = {2};
  index.offsets = {0};
  index.documents = {0, 1};
  folder.write("a.idx", index.bytes());
  std::string bin;
  append(bin, std::int64_t{5});
  append(bin, (std::int64_t{1} << 32) + 5);
  folder.write("a.bin", bin);
  const IndexedDataset dataset(folder / "a");
  EXPECT_EQ(read_all(dataset), (std::vector<Document>{{5, -1}}));
  EXPECT_NE(error_of([&] { dataset.check_token_ids(100); }).find("4294967301"), std::string::npos);
}

TEST(IndexedDataset, RefusesDamagedFiles) {
  const TemporaryFolder folder;
  folder.write("a.bin", bin_of(9));
  const auto message_with = [&](const std::string& idx) {
    folder.write("a.idx", idx);
    return error_of([&] { const IndexedDataset dataset(folder / "a"); });
  };
  const auto expect = [&](auto&& change, const char* text) {
    Index index;
    change(index);
    const std::string message = message_with(index.bytes());
    EXPECT_NE(message.find(text), std::string::npos) << message;
    EXPECT_NE(message.find("/a."), std::string::npos) << message;
  };
  expect([](Index& i) { i.magic[0] = 'X'; }, "MMIDIDX");
  expect([](Index& i) { i.version = 2; }, "version 2; expected 1");
  expect([](Index& i) { i.type = 7; }, "dtype 7");
  expect([](Index& i) { i.type = 9; }, "dtype 9");
  expect([](Index& i) { i.type = 0; }, "dtype 0");
  expect([](Index& i) { i.type = 2; }, "dtype 2");
  expect([](Index& i) { i.sequences = 4; }, "4 sequences");
  expect([](Index& i) { i.sequences = ~std::uint64_t{0} / 3; }, "truncated or damaged");
  expect([](Index& i) { i.entries = std::uint64_t{1} << 61; }, "truncated or damaged");
  expect([](Index& i) { i.lengths[1] = -2; }, "sequence 1 has length -2");
  expect([](Index& i) { i.offsets[2] = 11; }, "sequence 2 starts at byte 11; expected 10");
  expect([](Index& i) { i.lengths[2] = 5; }, "18 bytes; expected 20");
  expect([](Index& i) { i.type = 4; }, "sequence 1 starts at byte 6; expected 12");
  expect([](Index& i) { i.documents[0] = 1; }, "document 0 starts at sequence 1");
  expect([](Index& i) { i.documents[1] = 4; }, "document entry 1 is sequence 4");
  expect([](Index& i) { i.documents = {0, 3, 2}; }, "document entry 2 is sequence 2");
  expect([](Index& i) { i.documents[2] = 2; }, "ends at sequence 2; expected 3");
  expect(
      [](Index& i) {
        i.entries = 0;
        i.documents.clear();
      },
      "0 document entries");
  const std::string good = Index().bytes();
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{8}, std::size_t{33}, std::size_t{34}, good.size() - 1})
    EXPECT_NE(message_with(good.substr(0, size)).find("truncated"), std::string::npos) << size;
  EXPECT_NE(message_with(good + "x").find("truncated or damaged"), std::string::npos);

  folder.write("a.idx", good);
  folder.write("a.bin", bin_of(9).substr(0, 17));
  EXPECT_NE(
      error_of([&] { const IndexedDataset dataset(folder / "a"); }).find("a.bin: 17 bytes; expected 18"),
      std::string::npos);
  EXPECT_NE(error_of([&] { const IndexedDataset dataset(folder / "b"); }).find("b.idx"), std::string::npos);
}

}  // namespace
}  // namespace xmoe
