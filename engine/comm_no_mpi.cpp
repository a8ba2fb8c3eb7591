// Where MPI is absent: a binary that runs on one rank, or on ranks as threads.
#include "engine/comm.h"

namespace sutor {

std::shared_ptr<Transport> mpi_transport() {
  const int started = ranks_that_mpi_started();
  check(started <= 1,
        "started as one of {} processes, but this binary has no MPI: install libopenmpi-dev, "
        "then make clean and make",
        started);
  return nullptr;
}
void leave_mpi(int) {}
std::string mpi_version() { return ""; }

}  // namespace sutor
