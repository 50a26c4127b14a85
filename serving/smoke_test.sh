#!/bin/sh
# Asks a running server by curl, and says what it answered: TensorFlow Serving or longretriever serve.
#   serving/smoke_test.sh [http://localhost:8501] [longretriever]
# Needs curl and jq. Knows nothing of the export: inputs and their types come from its metadata, items from its answers.
set -eu

URL=${1:-http://localhost:8501}
MODEL=${2:-longretriever}
BASE=$URL/v1/models/$MODEL
REPLY=$(mktemp)
BODY=$(mktemp)
trap 'rm -f "$REPLY" "$BODY"' EXIT
NOW=$(date +%s)

fail() { echo "FAIL  $1" >&2; head -c 600 "$REPLY" >&2; echo >&2; exit 1; }
pass() { echo "ok    $1"; }

# ask STATUS WHAT CURL_ARGUMENTS...: the reply goes to $REPLY; another status fails.
ask() {
  want=$1 what=$2
  shift 2
  status=$(curl -sS -m 30 -o "$REPLY" -w '%{http_code}' "$@") || fail "$what: no answer from $URL"
  [ "$status" = "$want" ] || fail "$what: HTTP $status, expected $want"
}
predict() { ask "$1" "$2" -H 'Content-Type: application/json' --data-binary "@$BODY" "$BASE:predict"; }
holds() { jq -e "$1" "$REPLY" > /dev/null || fail "$2"; pass "$2"; }

# body FORM HISTORY: a question to `top_k` about a list of items; every input by its type, as REST wants.
body() {
  printf '%s' "$INPUTS" | jq -c --arg form "$1" --argjson items "$2" --argjson now "$NOW" '
    with_entries(
      .key as $name | .value =
        if $name == "history_item_id" then $items
        elif $name == "history_timestamp" then [range($items | length) | $now - 86400 * (. + 1)]
        elif $name == "request_timestamp" then $now
        elif $name == "k" then 20
        else "" end)
    | if $form == "instances" then {signature_name: "top_k", instances: [.]}
      else {signature_name: "top_k", inputs: map_values([.])} end' > "$BODY"
}

ask 200 status "$BASE"
holds '.model_version_status | any(.state == "AVAILABLE")' "a version is available"

ask 200 metadata "$BASE/metadata"
holds '.metadata.signature_def | (.signature_def // .) | has("serving_default") and has("top_k")' "the signatures are there"
INPUTS=$(jq -c '.metadata.signature_def | (.signature_def // .) | .top_k.inputs' "$REPLY")

# A user with a life that nobody knows is shown what everyone likes; those items are then a real life.
NOBODY=$(printf '%s' "$INPUTS" | jq -c 'if .history_item_id.dtype == "DT_STRING" then ["(no such item)"] else [-1] end')
body inputs "$NOBODY"
predict 200 "predict without a known history"
holds '.outputs | .num_valid[0] > 0 and (.interest_origin[0] | index("popular") != null)' "a stranger gets popular items"
HISTORY=$(jq -c '.outputs.item_id[0][:5]' "$REPLY")
CATEGORY=$(jq -c '.outputs.category[0][0]' "$REPLY")

body inputs "$HISTORY"
predict 200 "predict, columns"
holds ".outputs | .num_valid[0] > 0 and (.interest_category[0] | index($CATEGORY) != null)" \
  "a history is read: its category is an interest"
holds '.outputs | [.score[0], .interest_score[0]] | flatten | all(type == "number")' "every score is a number"
FIRST=$(jq -c '.outputs.item_id[0]' "$REPLY")

body instances "$HISTORY"
predict 200 "predict, rows"
[ "$(jq -c '.predictions[0] | .num_valid' "$REPLY")" -gt 0 ] || fail "rows are answered"
pass "rows are answered"
if [ "$(jq -c '.predictions[0].item_id' "$REPLY")" = "$FIRST" ]; then
  pass "rows and columns agree"
else
  echo "note  rows and columns drew other interests: the export draws N of M at random, and top_k has no seed"
fi

echo '{"inputs": ' > "$BODY"
predict 400 "malformed JSON"
holds 'has("error")' "malformed JSON is refused with a message"
echo '{"signature_name": "top_k", "inputs": {"k": [3]}}' > "$BODY"
predict 400 "missing inputs"
holds '.error | test("history_item_id|named input|input")' "missing inputs are named"
ask 404 "unknown model" "$URL/v1/models/no-such-model"
holds 'has("error")' "an unknown model is not found"
echo "all is well with $BASE"
