#include "data/prepare/prepare.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "base/progress.h"

namespace xmoe {

namespace {

// Text that is read before the workers start on it; for each of them some chunks, so that none waits long for
// the last.
constexpr std::size_t kBatchBytesPerWorker = std::size_t{4} << 20;
// The number of files that a batch may hold open is bounded by this (see kBatchChunks of the trainer).
constexpr std::size_t kBatchChunks = std::size_t{1} << 14;

class ThreadLimit {
 public:
  explicit ThreadLimit(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadLimit() { omp_set_num_threads(before_); }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
};

struct EncodedChunk {
  std::vector<std::int32_t> ids;
  std::size_t bytes = 0;
};

}  // namespace

PrepareResult prepare_dataset(DocumentReader& reader, const Tokenizer& tokenizer, int workers,
                              IndexedDatasetWriter& writer) {
  XMOE_CHECK(workers >= 1, "{} workers", workers);
  const ThreadLimit limit(workers);
  const std::int32_t end_of_document = tokenizer.end_of_document();
  std::vector<Encoder> encoders;
  encoders.reserve(static_cast<std::size_t>(workers));
  for (int i = 0; i < workers; ++i) encoders.emplace_back(tokenizer);

  constexpr double kMegabyte = 1e6;
  Progress progress("tokenizing", reader.total_bytes(), "MB", kMegabyte);
  PrepareResult result;
  std::size_t document_bytes = 0;  // of the document whose chunks are being written
  std::vector<DocumentChunk> batch;
  std::vector<EncodedChunk> encoded;
  for (bool more = true; more;) {
    batch.clear();
    std::size_t bytes = 0;
    DocumentChunk chunk;
    while (bytes < kBatchBytesPerWorker * static_cast<std::size_t>(workers) && batch.size() < kBatchChunks &&
           (more = reader.next(chunk))) {
      bytes += chunk.raw.size();
      batch.push_back(chunk);
    }
    encoded.resize(std::max(encoded.size(), batch.size()));
    parallel_tasks(static_cast<std::int64_t>(batch.size()), [&](std::int64_t task, int thread) {
      const auto i = static_cast<std::size_t>(task);
      std::string storage;
      const std::string_view text = reader.text_of(batch[i], storage);
      encoded[i].ids.clear();
      encoded[i].bytes = text.size();
      encoders[static_cast<std::size_t>(thread)].encode(text, encoded[i].ids);
    });
    for (std::size_t i = 0; i < batch.size(); ++i) {
      writer.append(encoded[i].ids);
      document_bytes += encoded[i].bytes;
      if (!batch[i].ends_document) continue;
      if (document_bytes == 0) {
        ++result.empty_documents;
        continue;
      }
      writer.append({&end_of_document, 1});
      writer.end_document();
      result.text_bytes += static_cast<std::int64_t>(document_bytes);
      document_bytes = 0;
    }
    progress.update(reader.bytes_read());
  }
  result.documents = writer.documents();
  result.tokens = writer.tokens();
  return result;
}

}  // namespace xmoe
