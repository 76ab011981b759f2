#include "data/documents/document_reader.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/support/temporary_folder.h"

namespace xmoe {
namespace {

using Texts = std::vector<std::string>;

Texts read_all(const std::vector<std::filesystem::path>& files, const DocumentReaderOptions& options = {}) {
  DocumentReader reader(files, options);
  Texts texts;
  DocumentChunk chunk;
  bool new_document = true;
  while (reader.next(chunk)) {
    std::string storage;
    const auto text = reader.text_of(chunk, storage);
    if (new_document) texts.emplace_back();
    texts.back() += text;
    new_document = chunk.ends_document;
  }
  EXPECT_TRUE(new_document);
  EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
  return texts;
}

TEST(DocumentReader, AFileIsADocument) {
  const TemporaryFolder folder;
  const auto a = folder.write("a.txt", "one\n\ntwo\n");
  const auto empty = folder.write("empty.txt", "");
  const auto b = folder.write("b.txt", "three");
  EXPECT_EQ(read_all({a, empty, b}), (Texts{"one\n\ntwo\n", "three"}));
  EXPECT_TRUE(read_all({empty}).empty());
  EXPECT_TRUE(read_all({}).empty());
}

TEST(DocumentReader, BlankLinesSeparate) {
  const TemporaryFolder folder;
  DocumentReaderOptions options;
  options.text_documents = TextDocuments::blank_line;
  const auto read = [&](std::string_view text) { return read_all({folder.write("a.txt", text)}, options); };
  EXPECT_EQ(read("one\ntwo\n\nthree\n \t\n\n  four\n"), (Texts{"one\ntwo", "three", "  four"}));
  EXPECT_EQ(read("\n\n\none"), (Texts{"one"}));
  EXPECT_EQ(read("one\r\n\r\ntwo\r\n"), (Texts{"one\r", "two\r"}));
  EXPECT_EQ(read("a"), (Texts{"a"}));
  EXPECT_TRUE(read("").empty());
  EXPECT_TRUE(read("\n \n\n").empty());
  EXPECT_TRUE(read(" ").empty());
}

TEST(DocumentReader, LargeDocumentsComeInChunks) {
  const TemporaryFolder folder;
  std::string large;
  while (large.size() < 2'000'000) large += "some words to cut between ";
  const auto path = folder.write("a.txt", large);
  DocumentReader reader({path}, {});
  DocumentChunk chunk;
  int chunks = 0;
  while (reader.next(chunk)) ++chunks;
  EXPECT_GT(chunks, 3);
  EXPECT_EQ(read_all({path}), Texts{large});
  DocumentReaderOptions options;
  options.text_documents = TextDocuments::blank_line;
  EXPECT_EQ(read_all({folder.write("b.txt", large + "\n\n" + large)}, options), (Texts{large, large}));
}

TEST(DocumentReader, JsonLines) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "a.jsonl",
      "{\"text\": \"one\\n\\u00e9\", \"id\": 1}\n\n  \n{\"id\": 2, \"text\": \"\"}\r\n{\"text\": \"two\"}");
  EXPECT_EQ(read_all({path}), (Texts{"one\n\u00e9", "", "two"}));
  DocumentReaderOptions options;
  options.format = DocumentFormat::text;
  EXPECT_EQ(read_all({path}, options).size(), 1U);
  options.format = DocumentFormat::jsonl;
  options.json_key = "body";
  EXPECT_EQ(read_all({folder.write("b.txt", "{\"body\": \"x\"}\n")}, options), (Texts{"x"}));
}

TEST(DocumentReader, NamesFileAndLineOfBadJson) {
  const TemporaryFolder folder;
  for (const char* bad : {"{\"text\": 1}", "{\"other\": \"x\"}", "[]", "\"text\"", "{\"text\": \"x\"",
                          "{\"text\": \"\xff\"}"}) {
    const auto path = folder.write("bad.jsonl", std::string("{\"text\": \"x\"}\n\n") + bad + "\n");
    const std::string message = error_of([&] { read_all({path}); });
    EXPECT_NE(message.find("bad.jsonl line 3"), std::string::npos) << message;
  }
  EXPECT_NE(error_of([&] { read_all({folder / "missing.txt"}); }).find("missing.txt"), std::string::npos);
}

}  // namespace
}  // namespace xmoe
