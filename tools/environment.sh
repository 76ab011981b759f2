# Settings under which this project's own scripts start MPI programs; to be sourced. What the user has set wins.

# Open MPI refuses root unless told twice; in a container there is no other user.
export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT:-1}"
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}"
# More ranks than cores are an ordinary case here: a laptop runs the tests of eight ranks.
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
# Several mpirun may run side by side; each would otherwise bind its first rank to the same first core.
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
# Copies between processes by ptrace are forbidden in most containers, and each rank would complain.
export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
