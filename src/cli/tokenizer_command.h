// xmoe tokenizer train | encode | decode
#pragma once

namespace CLI {
class App;
}

namespace xmoe {

// The work is done while the arguments are parsed, if the subcommand is the one that is called.
void add_tokenizer_command(CLI::App& app, int& exit_code);

}  // namespace xmoe
