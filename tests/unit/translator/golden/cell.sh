#!/bin/bash
# Job svm (04fd11a11e1c522bb743d789c8fbc8f9), 1 task. Made by jupyter_offload.
# Run as `bash job.sh <task index>` in a private folder that holds inputs.tar; leaves output.tar.
# Values of the Pod stand here as quoted words only; nothing of them is evaluated.
#
# shellcheck disable=SC2016 # a dollar sign in a quoted value is a dollar sign
# shellcheck disable=SC2034,SC2154 # which of the variables a script needs depends on its Pod
# shellcheck disable=SC2317,SC2329 # o_container_<number> are called by their number
# shellcheck disable=SC1003,SC2088,SC1111,SC1112 # values look like slips of the pen at times

o_index=${1:-0}
case $o_index in *[!0-9]*) o_index=0 ;; esac

# --- containers: init containers first ---------------------------------------------------------------------------
o_names=(main)
o_init=(false)
o_count=1 o_init_count=0
o_mains=(0)
o_deadline_seconds=600 # activeDeadlineSeconds; 0: none
o_grace=30            # terminationGracePeriodSeconds
o_task_inputs=''      # yes: there is also inputs-<task index>.tar
o_base=volumes/work # where the patterns of what comes back are matched (in the work folder)
o_public=(volumes/work)  # the emptyDir volumes: only what lies in them comes back
o_output_limit=10737418240 # bytes of files that come back; 0: no limit
o_frames_left=67108864 # bytes of logs that go to standard output

o_container_0() { # main
  o_workdir="$o_root"/volumes/work
  cd -- "$o_workdir" || exit 126
  o_locale_back
  export TMPDIR="$o_root"/tmp/main
  export OFFLOAD_WORKDIR="${o_workdir}"
  export OFFLOAD_SECRET_TOKEN="${o_workdir}"/.offload/secrets/TOKEN
  export GREETING=$'it\047s $HOME
and `more`\033[0m'
  export JOB_COMPLETION_INDEX="${o_index}"
  export OFFLOAD_TASK_INDEX="${o_index}"
  exec -- "$o_env" \
    LANG=C.UTF-8 \
    python3 .offload/runner.py
}

o_fetch() { # what comes back
  o_fetch_file .offload/result
  o_fetch_glob 'plots/*.png'
  o_fetch_glob 'a\\b?'
  o_fetch_file 'it'\''s'
  return 0
}

o_runtime_ready() { # what the worker must have
  o_have_host
}

