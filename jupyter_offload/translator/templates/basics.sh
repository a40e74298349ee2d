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
