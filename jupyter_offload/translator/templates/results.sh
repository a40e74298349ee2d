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
