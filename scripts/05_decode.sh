#!/usr/bin/env bash
# Usage: bash scripts/05_decode.sh [--preset NAME] [--work_dir DIR] [flags of gpt2_decode.py]
#
# Turns the predicted ids of the work dir into text: prediction.txt (and base.txt), one line an input, and the references, in
# reference.txt or, for WebNLG and DART, in the folder references with six files, tokenised and in lower case.
# Time of mini on 2 CPU cores: 1 s.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
take_preset "$@"
check_flags src/gpt2_decode.py
refuse_own_flags src/gpt2_decode.py --sample_file --input_file --output_pred_file --output_ref_file --ref_type
from_step "$data/test_formatted.jsonl" 02 "$DATA"
for name in ${COMPARE_WITH_BASE:+base} prediction; do from_step "$work_dir/beam_$name.jsonl" 04; done
ensure_setup

say "Ids to text"
references=$(of_task references) decode_flags=$(of_task decode_flags)
read -ra decode_flags <<<"$decode_flags"
texts() { find "$work_dir"/{base,prediction}.txt "$work_dir/$references" -type f -exec cksum {} + 2>/dev/null | sort || true; }
earlier=$(texts)
forget_scores() {
  [[ -f $work_dir/scores.json && $(texts) != "$earlier" ]] || return 0 # which does not say what texts it is of
  rm "$work_dir/scores.json"
  rm -f "$work_dir"/{comparison,slots}.json # which step 7 makes of them
  echo "removed ${work_dir//[[:cntrl:]]/?}/scores.json, which was of other texts; step 6 makes it again"
}
trap forget_scores EXIT # also where the second decoding fails
for name in ${COMPARE_WITH_BASE:+base} prediction; do
  attended "$python" src/gpt2_decode.py --sample_file "$work_dir/beam_$name.jsonl" --input_file "$data/test_formatted.jsonl" \
    --output_pred_file "$work_dir/$name.txt" --output_ref_file "$work_dir/$references" --ref_type "$TASK" \
    ${decode_flags[@]+"${decode_flags[@]}"} ${rest[@]+"${rest[@]}"}
done
