// The steps from a text file to a model that speaks, as the help shows them. The README has the same; a test
// runs them.
#pragma once

namespace xmoe::recipe {

inline constexpr const char* kTokenizer =
    "xmoe tokenizer train --input book.txt --vocab-size 8192 --output tokenizer.json";
inline constexpr const char* kData =
    "xmoe data prepare --input book.txt --split-documents blank-line --tokenizer tokenizer.json \\\n"
    "      --output-prefix book";
inline constexpr const char* kTrain =
    "mpirun -n 2 xmoe train --config configs/models/demo.toml --expert-model-parallel-size 2 \\\n"
    "      --data-path book --tokenizer tokenizer.json --split 98,2,0 --train-iters 1000 --lr 1e-3 \\\n"
    "      --save run --load run";
inline constexpr const char* kEval = "xmoe eval --load run --data-path book --part valid";
inline constexpr const char* kGenerate = "xmoe generate --load run --prompt 'Once upon a time'";

}  // namespace xmoe::recipe
