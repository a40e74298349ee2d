# ----------------------------------------------------------------------------------------------------------------
# The machinery below is the same in every script. Names begin with o_ so that a site's setup lines do not meet them.
# ----------------------------------------------------------------------------------------------------------------

o_now() { # seconds since the epoch -> o_time
  if [[ -n ${EPOCHREALTIME-} ]]; then
    o_time=${EPOCHREALTIME/[!0-9]/.}
    o_time=${o_time%???}
  else
    printf -v o_time '%(%s)T' -1
  fi
}

o_clock() { # milliseconds of a clock that never jumps -> o_ms
  local up rest
  read -r up rest </proc/uptime
  o_ms=$((10#${up/./} * 10))
}

o_plain() { # text that may stand in a JSON string -> o_text
  o_text=${1//\"/\'}
  o_text=${o_text//[^ !#-\[\]-~]/?}
}

o_complain() { # the script's own troubles go to standard error
  printf 'job script: %s\n' "$1" >&2
}

o_note() { # something the owner should know, though the job goes on
  o_plain "$1"
  o_complain "$o_text"
  if ((o_note_count < 20)); then
    o_notes+="${o_notes:+,}\"$o_text\""
  fi
  o_note_count=$((o_note_count + 1))
}

o_fail() { # o_fail <reason word> <message>: the first reason is the one that is told
  if [[ -z $o_reason ]]; then
    o_plain "$2"
    o_reason=$1 o_message=$o_text
    o_complain "$1: $o_text"
  fi
}

# --- status ---------------------------------------------------------------------------------------------------

o_status() { # the status as JSON -> o_json
  local i list=''
  for ((i = 0; i < o_count; i++)); do
    list+="${list:+,}{\"name\":\"${o_names[i]}\",\"init\":${o_init[i]},\"state\":\"${o_state[i]}\",\"exit_code\":${o_code[i]}"
    list+=",\"signal\":${o_signal[i]},\"reason\":\"${o_why[i]}\",\"started\":${o_began[i]},\"finished\":${o_done[i]}}"
  done
  o_plain "${HOSTNAME-}"
  o_json="{\"format\":1,\"phase\":\"$o_phase\",\"reason\":\"$o_reason\",\"message\":\"$o_message\",\"host\":\"$o_text\""
  o_json+=",\"started\":$o_started,\"finished\":$o_finished,\"containers\":[$list],\"notes\":[$o_notes]}"
}

o_tell() { # a status frame
  o_status
  printf '\036{"status": %s}\n' "$o_json" || o_complain 'standard output cannot be written'
}

# --- logs -----------------------------------------------------------------------------------------------------

o_log() { # o_log <container> <stream>: from a pipe into the raw log file; on a full disk the container still goes on
  trap '' TERM INT HUP
  exec >/dev/null 2>&1 # a daemon that keeps the log open must not keep the batch system waiting
  if ! cat >>"$o_root/out/logs/${o_names[$1]}.$2"; then
    printf 'full %s %s\n' "$1" "$2" >&"$o_events"
    cat >/dev/null
  fi
  printf 'closed %s %s\n' "$1" "$2" >&"$o_events"
}

o_bytes() { # o_bytes <file> <offset> <bytes>: a frame is never cut: a signal ends this before the first byte or not at all
  (
    trap '' TERM INT HUP
    exec dd if="$1" bs=65536 iflag=skip_bytes,count_bytes skip="$2" count="$3" status=none
  )
}

o_copy() { # o_copy <container name> <stream> <size>: what is new in a log file goes to standard output as frames
  local file=$o_root/out/logs/$1.$2 key=$1.$2 bytes
  o_now
  printf '%s %s %s\n' "$o_time" "$2" "${o_sent[$key]}" >>"$o_root/out/logs/$1.index"
  while ((o_sent[$key] < $3)); do
    bytes=$(($3 - o_sent[$key]))
    bytes=$((bytes > 1048576 ? 1048576 : bytes))
    bytes=$((bytes > o_frames_left ? o_frames_left : bytes))
    if ((bytes == 0)); then # enough of frames; the raw file has it all
      o_sent[$key]=$3
      return
    fi
    printf '\036{"c":"%s","s":"%s","o":%s,"n":%s,"t":%s}\n' "$1" "$2" "${o_sent[$key]}" "$bytes" "$o_time"
    while
      o_bytes "$file" "${o_sent[$key]}" "$bytes"
      [[ $? =~ ^(129|130|143)$ ]]
    do :; done
    printf '\n'
    o_sent[$key]=$((o_sent[$key] + bytes))
    o_frames_left=$((o_frames_left - bytes))
  done
}

o_pump() { # look at the logs of the containers once; o_grown tells whether there was anything
  local size file tries found=''
  o_grown=0
  for ((tries = 0; tries < 5; tries++)); do # a signal can end stat
    while read -r size file; do
      found=yes
      file=${file##*/}
      if ((size > o_sent[$file])); then
        o_grown=1
        o_copy "${file%.*}" "${file##*.}" "$size"
      fi
    done < <(stat -c '%s %n' -- "$@" 2>/dev/null)
    [[ -z $found ]] || break
  done
  o_clock
  o_pumped=$o_ms
}

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

o_kill() { # o_kill <signal>: to every process of the running containers
  local i
  for i in "${o_running[@]}"; do
    if [[ -n ${o_pid[i]} && ${o_code[i]} == null ]]; then
      kill "-$1" -- "-${o_pid[i]}" 2>/dev/null
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
        kill -TERM -- "-$3" 2>/dev/null
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

# --- results --------------------------------------------------------------------------------------------------

o_inside() { # o_inside <absolute path without links>: whether it lies in an emptyDir volume
  local folder
  for folder in "${o_public[@]}"; do
    [[ $1/ == "$o_root/$folder"/* ]] && return 0
  done
  return 1
}

o_add() { # o_add <path below the working directory>: a file, or all files of a folder
  local path=$1 folder target sub
  if [[ -d $path ]]; then
    if cd -P -- "$o_base/$path" && ! o_inside "$PWD"; then
      o_note "not fetched, it lies outside the job's own folders: $path"
      cd -P -- "$o_base" || return
      return
    fi
    cd -P -- "$o_base" || return
    shopt -s dotglob
    for sub in "$path"/*; do
      if [[ -L $sub && -d $sub ]]; then
        o_note "not fetched, a link to a folder: $sub"
      else
        o_add "$sub"
      fi
    done
    shopt -u dotglob
    return
  fi
  [[ -z ${o_seen["$path"]-} ]] || return
  o_seen["$path"]=1
  folder=.
  [[ $path != */* ]] || folder=${path%/*}
  if [[ $folder != "$o_folder" ]]; then # usually that of the file before
    o_folder=$folder o_where=''
    cd -P -- "$o_base/$folder" && o_where=$PWD
    cd -P -- "$o_base" || return
  fi
  target=$o_where
  if [[ -L $path ]]; then
    target=$(readlink -f -- "$path" && printf x) # x: a name may end in newlines
    target=${target%?x}
  fi
  if ! o_inside "$target"; then
    o_note "not fetched, it lies outside the job's own folders: $path"
  elif [[ ! -f $path ]]; then
    o_note "not fetched, not a regular file: $path"
  elif [[ ! -r $path ]]; then
    o_note "not fetched, not readable: $path"
  else
    o_files+=("$path")
  fi
}

o_fetch_file() { # o_fetch_file <path>: a name without wildcards
  if [[ -e $1 || -L $1 ]]; then
    o_add "$1"
  else
    o_note "not fetched, there is no $1"
  fi
}

o_fetch_glob() { # o_fetch_glob <pattern>: * ? [...] and ** are wildcards, a backslash makes the next character a plain one
  local IFS='' path found
  { LC_ALL=C.UTF-8; } 2>/dev/null # for a wildcard a character is a character, where the worker knows how
  # shellcheck disable=SC2206 # the one place where a pattern is meant to be one
  found=($1)
  LC_ALL=C
  for path in "${found[@]}"; do
    o_add "${path%/}" # "folder/**" names the folder itself with a slash
  done
  if ((${#found[@]} == 0)); then
    o_note "not fetched, nothing matches $1"
  fi
}

o_list_logs() { # status and logs -> file list
  local file
  printf 'status.json\0' >"$o_root/list"
  for file in "$o_root"/out/logs/*; do
    [[ ! -f $file ]] || printf 'logs/%s\0' "${file##*/}" >>"$o_root/list"
  done
}

o_join() { # o_join <mount point> <folder>: files are looked for where the container saw them
  if rmdir -- "$o_root/$1" 2>/dev/null; then
    ln -s -- "$o_root/$2" "$o_root/$1"
  fi
}

o_collect() { # the names of what comes back, NUL-terminated -> file list
  local i total=0 left_out=0 sizes
  o_list_logs
  if [[ -z $o_base ]] || ! cd -P -- "$o_root/$o_base"; then
    return
  fi
  o_base=$PWD
  shopt -s nullglob globstar
  o_fetch
  shopt -u nullglob globstar
  for ((i = 0; i < ${#o_files[@]}; i++)); do
    if ((i % 200 == 0)); then
      mapfile -t sizes < <(stat -L -c %s -- "${o_files[@]:i:200}")
    fi
    if ((o_output_limit > 0 && total + ${sizes[i % 200]:-0} > o_output_limit)); then
      left_out=$((left_out + 1))
    else
      total=$((total + ${sizes[i % 200]:-0}))
      printf 'files/%s\0' "${o_files[i]}" >>"$o_root/list"
    fi
  done
  if ((${#o_files[@]} > 0)); then
    ln -s -- "$o_base" "$o_root/out/files"
  fi
  if ((left_out > 0)); then
    o_note "$left_out files not fetched: more than $o_output_limit bytes together"
  fi
}

o_pack() { # o_pack <file with NUL-terminated names>: output.tar, complete or not at all
  # A name reaches tar as it is; hard links become files, links become what they point at (o_add has looked where).
  local code
  o_text=$(TAR_OPTIONS='' tar --format=gnu --no-unquote --dereference --hard-dereference --no-recursion --null \
    -C "$o_root/out" -cf "$o_root/output.tar" -T "$1" 2>&1)
  code=$?
  if ((code > 1)); then # 1: a file changed meanwhile, which is a file's own affair
    o_complain "$o_text"
    rm -f -- "$o_root/output.tar"
    return 1
  fi
  mv -f -- "$o_root/output.tar" "$o_here/output.tar"
}

o_write_output() { # output.tar with everything; on a full disk with the logs, or with the status alone
  o_collect
  o_status
  if printf '%s\n' "$o_json" >"$o_root/out/status.json" && o_pack "$o_root/list"; then
    return
  fi
  o_phase=Failed
  o_fail DiskFull "output.tar could not be written: $o_text"
  rm -rf -- "$o_root/volumes" "$o_root/tmp"
  o_status
  printf '%s\n' "$o_json" >"$o_root/out/status.json"
  o_list_logs
  o_pack "$o_root/list" && return
  rm -rf -- "$o_root/out/logs"
  printf '%s\n' "$o_json" >"$o_root/out/status.json"
  printf 'status.json\0' >"$o_root/list"
  o_pack "$o_root/list"
}

o_finish() { # write output.tar, tell the last status and exit
  local i code=0
  trap '' TERM INT HUP
  trap - EXIT
  exec >&"$o_stdout" # within the setup lines standard output is another
  o_now
  o_finished=$o_time
  o_phase=${o_reason:+Failed}
  o_phase=${o_phase:-Succeeded}
  [[ ! -d $o_root/out ]] || o_write_output
  for ((i = 0; i < o_count; i++)); do
    if [[ $code == 0 && ${o_code[i]} != null ]]; then
      code=${o_code[i]}
    fi
  done
  case $code$o_reason in # every container is content, and yet the work was not done
    0) ;;
    0Terminated) code=143 ;;
    0DeadlineExceeded) code=124 ;;
    0*) code=125 ;;
  esac
  o_tell
  cd / && rm -rf -- "$o_root"
  exit "$code"
}

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
