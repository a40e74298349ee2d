# --- the order of events ----------------------------------------------------------------------------------------

o_begin() { # before the site's setup lines: nothing of theirs may be lost, and nothing of ours may meet them
  umask 077
  unset CDPATH GLOBIGNORE
  exec </dev/null {o_stdout}>&1
  cd -P . && o_here=$PWD
  o_root=$o_here/offload-work
  local i
  for ((i = 0; i < o_count; i++)); do
    o_state[i]=waiting o_code[i]=null o_signal[i]=null o_why[i]='' o_began[i]=null o_done[i]=null o_pid[i]='' o_open[i]=0 o_patience[i]=0
  done
  o_now
  o_started=$o_time
  trap '' PIPE # whoever reads standard output may go away; the job goes on
  trap 'o_asked=TERM' TERM
  trap 'o_asked=INT' INT
  trap 'o_asked=HUP' HUP
  trap 'o_fail Error "the setup lines of the site ended the script"; o_finish' EXIT
}

o_unpack() { # o_unpack <tar file> <last member>: into the work folder
  if ! o_text=$(TAR_OPTIONS='' tar --no-same-owner -xpf "$o_here/$1" -C "$o_root" 2>&1); then
    case $o_asked$o_text in
      TERM* | INT* | HUP*) o_fail Terminated "asked to end by SIG$o_asked" ;;
      *'No space left'* | *'Wrote only'* | *'quota exceeded'*) o_fail DiskFull "$1 could not be unpacked: $o_text" ;;
      *) o_fail InputsCorrupt "$1 could not be unpacked: $o_text" ;;
    esac
  elif [[ ! -e $o_root/$2 ]]; then
    o_fail InputsCorrupt "$1 is not complete"
  fi
  [[ -z $o_reason ]]
}

o_prepare() { # the private work folder with all inputs
  IFS=$' \t\n'
  set +efu +o noclobber
  shopt -u nullglob dotglob failglob nocaseglob extglob
  unset CDPATH GLOBIGNORE
  cd -P -- "$o_here" || return
  # From here on every byte is a character; a container gets the locale that was in force before.
  o_locale_set=${LC_ALL+yes} o_locale=${LC_ALL-}
  LC_ALL=C
  rm -rf -- "$o_root" "$o_here/output.tar" # of an earlier start in the same folder
  if ! mkdir -m 700 -- "$o_root"; then
    o_fail Error "the work folder could not be made"
    return 1
  fi
  o_unpack inputs.tar complete || return
  if [[ -n $o_task_inputs ]]; then
    o_unpack "inputs-$o_index.tar" "complete-$o_index" || return
  fi
  exec {o_events}<> <(:) # a pipe without a name: what the helpers of the containers tell
}

o_main() { # init containers one after the other, then the containers together
  local i
  trap 'o_fail Error "the job script ended early"; o_finish' EXIT
  if o_prepare && o_runtime_ready; then
    o_clock
    o_deadline=$((o_deadline_seconds > 0 ? o_ms + o_deadline_seconds * 1000 : 0))
    for ((i = 0; i < o_init_count; i++)); do
      [[ -z $o_asked$o_reason ]] || break
      o_run "$i"
    done
    if [[ -n $o_asked && -z $o_reason ]]; then
      o_fail Terminated "asked to end by SIG$o_asked"
    elif [[ -z $o_reason ]]; then
      o_run "${o_mains[@]}"
    fi
  fi
  o_finish
}
