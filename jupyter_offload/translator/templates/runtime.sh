# --- the runtime of the containers -----------------------------------------------------------------------------

o_locale_back() { # the locale that was in force before the script chose its own
  if [[ -n $o_locale_set ]]; then LC_ALL=$o_locale; else unset LC_ALL; fi 2>/dev/null
}

o_clear_environment() { # a container does not see the worker's variables; the runtime keeps what it needs itself
  local name
  for name in $(compgen -e); do
    case $name in
      PATH | HOME | USER | LOGNAME | TERM | APPTAINER_* | SINGULARITY_* | XDG_RUNTIME_DIR | DBUS_SESSION_BUS_ADDRESS | LD_LIBRARY_PATH) ;;
      DOCKER_* | *_proxy | *_PROXY | SSL_CERT_* | CUDA_VISIBLE_DEVICES | NVIDIA_VISIBLE_DEVICES | OMP_NUM_THREADS) ;;
      *) export -n "${name?}" ;;
    esac
  done
  for name in $(compgen -A function); do
    export -nf "${name?}"
  done
}

o_stay() { # o_stay <folder in the work folder>: refuse a subPath that was turned into a link
  if [[ $(cd -P -- "$o_root/$1" && printf %sx "$PWD") != "$o_root/$1"x ]]; then
    o_complain "the subPath $1 is a link"
    return 1
  fi
}

o_have_host() { # the worker itself is the runtime
  o_env=$(type -P env)
}

o_have_runtime() { # o_have_runtime <program>: it must be there, and its mounts cannot have these characters
  o_env=$(type -P env)
  if ! o_runtime=$(type -P -- "$1"); then
    o_fail RuntimeMissing "there is no $1 on this worker"
  fi
  case $o_root in
    *[:,\\]*) o_fail RuntimeMissing "$1 cannot mount anything of $o_root (colon, comma or backslash)" ;;
  esac
  export APPTAINER_TMPDIR=${APPTAINER_TMPDIR-$o_root/runtime} SINGULARITY_TMPDIR=${SINGULARITY_TMPDIR-$o_root/runtime}
  if [[ -n ${OFFLOAD_CACHE-} ]]; then
    if mkdir -p -- "$OFFLOAD_CACHE" 2>/dev/null; then
      o_cache=(--bind "$OFFLOAD_CACHE:$OFFLOAD_CACHE")
    else
      o_note "there is no cache on this worker: $OFFLOAD_CACHE cannot be made"
    fi
    export APPTAINER_CACHEDIR=${APPTAINER_CACHEDIR-$OFFLOAD_CACHE/apptainer} SINGULARITY_CACHEDIR=${SINGULARITY_CACHEDIR-$OFFLOAD_CACHE/apptainer}
  fi
  [[ -z $o_reason ]]
}

o_takes_variables() { # o_takes_variables <image> <name>...: a plain folder does not pass these on
  if [[ -d $1 && ! -e $1/.singularity.d/env/90-environment.sh ]]; then
    o_fail Error "the image $1 is a plain folder, in which the variables ${*:2} cannot be set; use a sandbox or an image file"
    return 1
  fi
}

o_fatal() { # o_fatal <container>: the last words of the container runtime -> o_text
  local line
  o_text=''
  while IFS= read -r line; do
    case $line in FATAL:*) o_text=${line#FATAL:} ;; esac
  done < <(tail -c 4000 -- "$o_root/out/logs/${o_names[$1]}.stderr")
  while [[ $o_text == ' '* ]]; do o_text=${o_text# }; done
}

o_explain() { # o_explain <container> <exit code>: reason word -> o_why, what happened -> o_said
  local who="container ${o_names[$1]}"
  o_why[$1]=Error
  o_said="$who ended with exit code $2"
  if [[ ${o_signal[$1]} != null ]]; then
    o_said="$who was ended by signal ${o_signal[$1]}"
  elif (($2 == 127)); then
    o_why[$1]=CommandNotFound o_said="$who: its command was not found (exit code 127)"
  elif (($2 == 126)); then
    o_why[$1]=CommandNotFound o_said="$who: its command cannot be executed (exit code 126)"
  elif (($2 == 255)) && [[ -n $o_runtime ]]; then
    o_fatal "$1"
    case $o_text in
      '') ;;
      *'could not open image'* | *'nable to handle'* | *'failed to get checksum'* | *'image format not recognized'* | *'pulling'*)
        o_why[$1]=ImageNotFound o_said="$who: $o_text"
        ;;
      *'executable file not found'* | 'stat '*'no such file'* | 'permission denied' | 'is a directory' | *'exec format error'*)
        o_why[$1]=CommandNotFound o_said="$who: its command cannot be executed: $o_text"
        ;;
      *) o_said="$who: $o_text" ;;
    esac
  fi
}
