#include "data/prepare/prepare.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "data/prepare/inspect.h"
#include "data/support/temporary_folder.h"
#include "data/tokenizer/trainer.h"

namespace xmoe {
namespace {

Tokenizer small_tokenizer() {
  PieceCounter counter{PreTokenizer(PreTokenizerKind::gpt2)};
  counter.add("the cat sat on the mat, the cat sat on the hat");
  TrainerOptions options;
  options.vocab_size = 280;
  return Tokenizer(learn_vocabulary(counter, options));
}

std::string document_text(int number) {
  std::string text = "the cat " + std::to_string(number);
  // Some documents are large enough to be tokenized in parts.
  for (int i = 0; i < (number % 50 == 0 ? 40'000 : number % 7); ++i) text += " sat on the mat,";
  return text;
}

TEST(Prepare, DocumentsInOrderWithTheirEnd) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = small_tokenizer();
  std::string lines;
  std::string blocks;
  for (int i = 0; i < 120; ++i) {
    lines += "{\"text\": \"" + document_text(i) + "\"}\n{\"text\": \"\"}\n";
    blocks += document_text(i) + "\n\n";
  }
  const auto jsonl = folder.write("a.jsonl", lines);
  const auto text = folder.write("a.txt", blocks);
  std::string first;
  for (const int workers : {1, 3}) {
    for (const auto& path : {jsonl, text}) {
      DocumentReaderOptions options;
      options.text_documents = TextDocuments::blank_line;
      DocumentReader reader({path}, options);
      IndexedDatasetWriter writer(folder / "out", tokenizer.vocab_size());
      const PrepareResult result = prepare_dataset(reader, tokenizer, workers, writer);
      writer.finish();
      EXPECT_EQ(result.documents, 120);
      EXPECT_EQ(result.empty_documents, path == jsonl ? 120 : 0);
      const IndexedDataset dataset(folder / "out");
      ASSERT_EQ(dataset.documents(), 120);
      EXPECT_EQ(dataset.tokens(), result.tokens);
      std::int64_t bytes = 0;
      for (int i = 0; i < 120; ++i) {
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(dataset.document_length(i)));
        dataset.read(i, 0, tokens);
        ASSERT_EQ(tokens.back(), tokenizer.end_of_document());
        tokens.pop_back();
        ASSERT_EQ(tokens, tokenizer.encode(document_text(i))) << i;
        bytes += static_cast<std::int64_t>(document_text(i).size());
      }
      EXPECT_EQ(result.text_bytes, bytes);
      // The same bytes, whatever the workers and the format.
      const std::string bin = read_text_file(folder / "out.bin");
      if (first.empty()) first = bin;
      EXPECT_EQ(bin, first);
    }
  }
}

TEST(Prepare, AnErrorInAWorkerReachesTheCaller) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = small_tokenizer();
  DocumentReader reader({folder.write("a.jsonl", "{\"text\": \"x\"}\n{\"text\": 5}\n")}, {});
  IndexedDatasetWriter writer(folder / "out", tokenizer.vocab_size());
  EXPECT_NE(error_of([&] { prepare_dataset(reader, tokenizer, 2, writer); }).find("a.jsonl line 2"),
            std::string::npos);
}

TEST(Inspect, PrintsAndVerifies) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = small_tokenizer();
  DocumentReader reader(
      {folder.write("a.txt", "the cat\nsat"), folder.write("b.txt", "the mat, the cat, the hat")}, {});
  IndexedDatasetWriter writer(folder / "out", tokenizer.vocab_size());
  prepare_dataset(reader, tokenizer, 1, writer);
  writer.finish();
  const IndexedDataset dataset(folder / "out");
  const std::string with_text = inspect_dataset(dataset, {&tokenizer, 1, 32});
  EXPECT_NE(with_text.find("documents   2"), std::string::npos) << with_text;
  EXPECT_NE(with_text.find("the cat\\nsat<|endoftext|>\n"), std::string::npos) << with_text;
  EXPECT_EQ(with_text.find("document 1 ("), std::string::npos) << with_text;
  const std::string ids = inspect_dataset(dataset, {nullptr, 2, 1});
  EXPECT_NE(ids.find(" ..."), std::string::npos) << ids;

  Vocabulary smaller = tokenizer.vocabulary();
  smaller.merges.clear();
  smaller.tokens.resize(257);
  const Tokenizer other(smaller);
  EXPECT_NE(error_of([&] {
              inspect_dataset(dataset, {&other, 1, 1});
            }).find("document 0, offset"),
            std::string::npos);
}

}  // namespace
}  // namespace xmoe
