#!/bin/bash
# Job analysis (ea90a6ffb7635418be5a49550ea631d8), 1 task. Made by jupyter_offload.
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
o_names=(fetch main monitor)
o_init=(true false false)
o_count=3 o_init_count=1
o_mains=(1 2)
o_deadline_seconds=0 # activeDeadlineSeconds; 0: none
o_grace=5            # terminationGracePeriodSeconds
o_task_inputs=''      # yes: there is also inputs-<task index>.tar
o_base=volumes/work # where the patterns of what comes back are matched (in the work folder)
o_public=(volumes/work volumes/out volumes/data)  # the emptyDir volumes: only what lies in them comes back
o_output_limit=10737418240 # bytes of files that come back; 0: no limit
o_frames_left=67108864 # bytes of logs that go to standard output

o_container_0() { # fetch (init container)
  o_locale_back
  o_clear_environment
  export SOURCE='root://eos.example.org//a b'
  export JOB_COMPLETION_INDEX="${o_index}"
  export OFFLOAD_TASK_INDEX="${o_index}"
  exec -- "${o_runtime}" --silent exec --contain --pid --ipc \
    --writable-tmpfs \
    --nv \
    --home "${o_root}"/tmp/fetch/home:/home/offload \
    --pwd / \
    --bind "${o_root}"/tmp/fetch/tmp:/tmp \
    --bind "${o_root}"/tmp/fetch/tmp:/var/tmp \
    --bind /etc/grid-security:/etc/grid-security:ro \
    ${o_cache[@]+"${o_cache[@]}"} \
    --bind "${o_root}"/volumes/data:/data \
    docker://docker.io/library/alpine:3 \
    sh \
    -c \
    'echo root://eos.example.org//a b > /data/in'
}

o_container_1() { # main
  o_locale_back
  o_clear_environment
  export APPTAINERENV_PATH='/opt/\$x/bin:/usr/bin'
  export JOB_COMPLETION_INDEX="${o_index}"
  export OFFLOAD_TASK_INDEX="${o_index}"
  exec -- "${o_runtime}" --silent run --contain --pid --ipc \
    --writable-tmpfs \
    --nv \
    --home "${o_root}"/volumes/work/home:/work/home \
    --pwd /work \
    --bind "${o_root}"/tmp/main/tmp:/tmp \
    --bind "${o_root}"/tmp/main/tmp:/var/tmp \
    --bind /etc/grid-security:/etc/grid-security:ro \
    ${o_cache[@]+"${o_cache[@]}"} \
    --bind /cvmfs:/cvmfs:ro \
    --bind "${o_root}"/volumes/config/app.conf:/etc/app.conf:ro \
    --bind "${o_root}"/volumes/work:/work \
    --bind "${o_root}"/volumes/data:/work/data:ro \
    --bind "${o_root}"/volumes/out:/work/out \
    /images/science-12 \
    --task \
    "${o_index}" \
    '$(UNKNOWN)' \
    '$(HOME)'
}

o_container_2() { # monitor
  o_locale_back
  o_clear_environment
  export JOB_COMPLETION_INDEX="${o_index}"
  export OFFLOAD_TASK_INDEX="${o_index}"
  exec -- "${o_runtime}" --silent run --contain --pid --ipc \
    --nv \
    --home "${o_root}"/tmp/monitor/home:/home/offload \
    --pwd / \
    --bind "${o_root}"/tmp/monitor/tmp:/tmp \
    --bind "${o_root}"/tmp/monitor/tmp:/var/tmp \
    --bind /etc/grid-security:/etc/grid-security:ro \
    ${o_cache[@]+"${o_cache[@]}"} \
    oras://registry.example.org/monitor:1
}

o_fetch() { # what comes back
  o_join volumes/work/out volumes/out
  o_join volumes/work/data volumes/data
  o_fetch_glob 'out/**'
  return 0
}

o_runtime_ready() { # what the worker must have
  o_takes_variables /images/science-12 PATH || return 1
  o_have_runtime apptainer && return 0
  return 1
}

