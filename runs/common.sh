# What the scripts here begin with: the environment, installed where it is not, and memory that is kept.
# source "$(dirname "$0")/common.sh"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
make -s .venv/.installed

# glibc gives memory of this size back after every step and asks for it again, which takes its time
export THP_MEM_ALLOC_ENABLE=1 MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0
export MALLOC_TRIM_THRESHOLD_=40000000000 MALLOC_TOP_PAD_=67108864

# taken FOLDER: a run's folder in out/, with what was trained for the committed tables in it unless the folder
# is there already, or one in out/afresh/ where AFRESH is set; prints where it is
taken() {
  local folder=out/${AFRESH:+afresh/}$1
  if [ -z "${AFRESH:-}" ] && [ ! -d "$folder" ] && [ -d "checkpoints/$1" ]; then
    mkdir -p out && rm -rf "$folder.part" && cp -r "checkpoints/$1" "$folder.part" && mv "$folder.part" "$folder" ||
      return 1
  fi
  echo "$folder"
}
