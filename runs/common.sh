# What the scripts here begin with: the environment, installed where it is not, and memory that is kept.
# source "$(dirname "$0")/common.sh"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
make -s .venv/.installed

# glibc gives memory of this size back after every step and asks for it again, which takes its time
export THP_MEM_ALLOC_ENABLE=1 MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0
export MALLOC_TRIM_THRESHOLD_=40000000000 MALLOC_TOP_PAD_=67108864

# taken FOLDER: a run's folder in out/, with what was trained for the committed tables in it, unless AFRESH
# is set or the folder is there already; prints where it is
taken() {
  local folder=out/$1
  if [ -z "${AFRESH:-}" ] && [ ! -d "$folder" ] && [ -d "checkpoints/$1" ]; then
    mkdir -p out && cp -r "checkpoints/$1" "$folder"
  fi
  echo "$folder"
}
