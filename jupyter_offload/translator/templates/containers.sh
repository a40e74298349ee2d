# --- containers -----------------------------------------------------------------------------------------------

o_start() { # o_start <container>: in a process group of its own, with its output in log files
  local i=$1 name=${o_names[$1]}
  o_sent[$name.stdout]=0 o_sent[$name.stderr]=0
  : >"$o_root/out/logs/$name.stdout"
  : >"$o_root/out/logs/$name.stderr"
  : >"$o_root/out/logs/$name.index"
  (
    trap '' TERM INT HUP # lives on to tell how the container ended
    exec {o_stdout}>&-
    exec {o_out}> >(o_log "$i" stdout)
    exec {o_err}> >(exec {o_out}>&- && o_log "$i" stderr)
    set -m
    (
      set +m
      trap - TERM INT HUP PIPE
      "o_container_$i"
    ) </dev/null >&"$o_out" 2>&"$o_err" {o_out}>&- {o_err}>&- {o_events}>&- &
    pid=$!
    set +m
    exec {o_out}>&- {o_err}>&-
    printf 'pid %s %s\n' "$i" "$pid" >&"$o_events"
    wait "$pid" 2>/dev/null
    code=$?
    kill -KILL -- "-$pid" 2>/dev/null # what the container left behind, as a container engine does
    printf 'end %s %s\n' "$i" "$code" >&"$o_events"
    exit "$code"
  ) &
  o_helper[i]=$!
  o_now
  o_state[i]=running o_began[i]=$o_time o_open[i]=2
  o_tell
}

o_ended() { # o_ended <container>: it and its logs are done
  local i=$1 code=${o_code[$1]}
  o_pump "$o_root/out/logs/${o_names[i]}".std{out,err}
  o_now
  o_state[i]=terminated o_done[i]=$o_time
  if ((code > 128 && code < 193)); then
    o_signal[i]=$((code - 128))
  fi
  if [[ -n $o_ending ]]; then
    o_why[i]=$o_ending
  elif ((code != 0)); then
    o_explain "$i" "$code"
    o_fail "${o_why[i]}" "$o_said"
  fi
  o_tell
}

o_send() { # o_send <signal> <process>: to a container
  # Apptainer hands SIGTERM on to the program inside, as Kubernetes sends it to that one alone; sent to the whole group it would come twice.
  if [[ $1 == TERM && -n $o_runtime ]]; then
    kill -TERM "$2" 2>/dev/null
  else
    kill "-$1" -- "-$2" 2>/dev/null
  fi
}

o_kill() { # o_kill <signal>: to the running containers
  local i
  for i in "${o_running[@]}"; do
    if [[ -n ${o_pid[i]} && ${o_code[i]} == null ]]; then
      o_send "$1" "${o_pid[i]}"
    fi
  done
}

o_end_all() { # o_end_all <reason word> <message>: ask the containers to end, and make them end after the grace period
  o_ending=$1
  o_fail "$1" "$2"
  o_clock
  o_kill_at=$((o_ms + o_grace * 1000))
  o_kill TERM
}

o_event() { # o_event <kind> <container> <value>: something a container's helper told
  local i=$2
  case $1 in
    pid)
      o_pid[i]=$3
      if [[ -n $o_ending ]]; then
        o_send TERM "$3"
      fi
      ;;
    full) o_fail DiskFull "the disk was full while the log of container ${o_names[i]} was written" ;;
    closed) o_open[i]=$((o_open[i] - 1)) ;;
    end)
      o_code[i]=$3
      o_clock
      o_patience[i]=$((o_ms + 2000)) # for a process that left the group and holds the log open
      ;;
  esac
}

o_helper_gone() { # o_helper_gone <container>: its helper ended; what it told may not have been read yet, or it was killed
  wait "${o_helper[$1]}" 2>/dev/null
  o_event end "$1" $?
  [[ -z ${o_pid[$1]} ]] || kill -KILL -- "-${o_pid[$1]}" 2>/dev/null
}

o_check_time() { # deadline, signal, end of the grace period; how long one may sleep -> o_nap (milliseconds)
  o_clock
  if [[ -n $o_asked && -z $o_ending ]]; then
    o_end_all Terminated "asked to end by SIG$o_asked"
  elif ((o_deadline > 0 && o_ms >= o_deadline)) && [[ -z $o_ending ]]; then
    o_end_all DeadlineExceeded "longer than activeDeadlineSeconds"
  fi
  if [[ -n $o_ending ]] && ((o_ms >= o_kill_at)); then
    o_kill KILL
    o_kill_at=$((o_ms + 1000))
  fi
  o_nap=$((o_pumped + o_interval - o_ms))
  if [[ -n $o_ending ]]; then
    o_nap=$((o_nap > o_kill_at - o_ms ? o_kill_at - o_ms : o_nap))
  elif ((o_deadline > 0)); then
    o_nap=$((o_nap > o_deadline - o_ms ? o_deadline - o_ms : o_nap))
  fi
  o_nap=$((o_nap < 1 ? 1 : o_nap))
}

o_run() { # o_run <container>...: start these at once and return when all have ended
  local i nap left files line part=''
  o_running=("$@")
  for i; do o_start "$i"; done
  o_clock
  o_pumped=$o_ms o_interval=200
  while ((${#o_running[@]} > 0)); do
    o_check_time
    printf -v nap '%d.%03d' $((o_nap / 1000)) $((o_nap % 1000))
    if IFS='' read -r -t "$nap" -u "$o_events" line; then
      # shellcheck disable=SC2086 # three words of our own
      o_event $part$line
      part=''
    else
      part+=$line # the time was up in the middle of a line
    fi
    o_clock
    left=() files=()
    for i in "${o_running[@]}"; do
      if [[ ${o_code[i]} == null ]] && ! kill -0 "${o_helper[i]}" 2>/dev/null; then
        o_helper_gone "$i"
      fi
      if [[ ${o_code[i]} != null ]] && ((o_open[i] == 0 || o_ms > o_patience[i])); then
        o_ended "$i"
      else
        left+=("$i")
        files+=("$o_root/out/logs/${o_names[i]}.stdout" "$o_root/out/logs/${o_names[i]}.stderr")
      fi
    done
    o_running=("${left[@]+"${left[@]}"}")
    if ((${#files[@]} > 0 && o_ms >= o_pumped + o_interval)); then
      o_pump "${files[@]}"
      o_interval=$((o_grown ? 200 : o_interval * 3 / 2))
      o_interval=$((o_interval > 1000 ? 1000 : o_interval))
    fi
  done
}
