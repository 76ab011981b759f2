#include "distributed/support.h"

int main(int argc, char** argv) { return xmoe::distributed::run_tests(argc, argv); }
