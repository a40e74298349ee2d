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
