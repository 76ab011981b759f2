#include "cli/program.h"

int main(int argc, char** argv) { return xmoe::run_program(argc, argv); }
