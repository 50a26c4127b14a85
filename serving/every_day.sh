#!/usr/bin/env bash
# Every day a version: refresh by the day's events, let it answer under the label canary, release it or roll back.
#
#   serving/every_day.sh refresh RUN_DIR EXPORT_DIR EVENTS MODELS_CONFIG [FLAGS OF refresh ...]
#   serving/every_day.sh release EXPORT_DIR MODELS_CONFIG            # stable becomes what canary is
#   serving/every_day.sh roll_back EXPORT_DIR MODELS_CONFIG VERSION  # both labels go back; newer versions are put aside
#
# As a line of crontab, at 03:10, with the events of the day that has ended in a file of its own:
#   10 3 * * * cd /srv/shop && serving/every_day.sh refresh runs/mine exports/mine events/$(date -d yesterday +\%F).parquet models.config
#
# MODELS_CONFIG is a copy of serving/models.config; a server reads it again every --model_config_file_poll_wait_seconds.
# PYTHON names the interpreter (python). KEEP so many versions stay besides the labelled ones (3). SETTLE seconds pass in
# roll_back between the labels and the directories (0): give more than servers take to read MODELS_CONFIG again where they
# are TensorFlow Serving, which unloads a version whose directory is gone, labelled or not.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
label() { sed -n "s/.*key: \"$2\" value: \([0-9][0-9]*\).*/\1/p" "$1" | head -n 1; }
numbers() { find "$1" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' 2>/dev/null | grep -E '^[0-9]+$' | sort -n || true; }

require_labels() {  # before anything is changed
  [ -f "$1" ] || fail "$1 does not exist: copy serving/models.config there, and set base_path"
  for name in stable canary; do
    [ -n "$(label "$1" "$name")" ] || fail "$1 has no line: version_labels { key: \"$name\" value: NUMBER }"
  done
}

move_label() {  # file, label, version: the file is replaced as a whole
  sed "s/\(key: \"$2\" value: \)[0-9][0-9]*/\1$3/" "$1" > "$1.aside"
  mv "$1.aside" "$1"
}

refresh() {
  [ $# -ge 4 ] || fail "refresh needs RUN_DIR EXPORT_DIR EVENTS MODELS_CONFIG"
  local run_dir=$1 export_dir=$2 events=$3 config=$4
  shift 4
  require_labels "$config"
  local last next
  last=$({ numbers "$export_dir"; numbers "$export_dir/rolled_back"; } | sort -n | tail -n 1)
  [ -n "$last" ] || fail "$export_dir holds no version: export one first"
  next=$((last + 1))  # never the number of a version that was rolled back: a server may still have that one in mind
  "${PYTHON:-python}" -m longretriever_tf refresh --run_dir="$run_dir" --export_dir="$export_dir" --events="$events" \
    --version="$next" "$@"
  move_label "$config" canary "$next"
  echo "canary: version $next; stable: version $(label "$config" stable)"
  local stable
  stable=$(label "$config" stable)
  for number in $(numbers "$export_dir" | grep -vx -e "$stable" -e "$next" | head -n "-${KEEP:-3}"); do
    rm -rf "${export_dir:?}/$number"
    echo "removed version $number"
  done
}

release() {
  [ $# -eq 2 ] || fail "release needs EXPORT_DIR MODELS_CONFIG"
  require_labels "$2"
  local canary
  canary=$(label "$2" canary)
  [ -f "$1/$canary/saved_model.pb" ] || fail "$1 holds no version $canary, which $2 calls canary"
  move_label "$2" stable "$canary"
  echo "stable: version $canary"
}

roll_back() {
  [ $# -eq 3 ] || fail "roll_back needs EXPORT_DIR MODELS_CONFIG VERSION"
  require_labels "$2"
  [ -f "$1/$3/saved_model.pb" ] || fail "$1 holds no version $3; it holds: $(numbers "$1" | tr '\n' ' ')"
  move_label "$2" stable "$3"
  move_label "$2" canary "$3"
  sleep "${SETTLE:-0}"
  mkdir -p "$1/rolled_back"
  for number in $(numbers "$1"); do  # the next refresh goes on from the last version: this one, without the bad day
    if [ "$number" -gt "$3" ]; then mv "$1/$number" "$1/rolled_back/$number"; fi
  done
  echo "stable and canary: version $3"
}

command=${1:-}
case $command in
  refresh | release | roll_back) shift; "$command" "$@" ;;
  *) fail "expected refresh, release or roll_back; received '$command'" ;;
esac
