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
