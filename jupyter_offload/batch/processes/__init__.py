"""The processes of the `local` batch: what is on disk, who may run, and the supervisor of one running task.

Everything here needs the standard library alone and imports little, because the supervisor (`supervise`) is started for every
task as ``python -S -E -s`` with only this folder's parent on its path: it must be running within some 20 ms and outlive the service.

- `spool`: the files and their order of writing; whoever reads them knows what happened, also after a kill -9 anywhere
- `procfs`: identity of a process, its descendants, their memory, the size of a folder
- `dispatch`: the one place that decides which task starts next; run by the service and by every supervisor as it ends
- `supervise`: the program that runs one task; `task`, `watch` and `finish` are its parts
"""
