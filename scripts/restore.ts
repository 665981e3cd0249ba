#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Restores a database, or a whole cluster, from a backup.
 *
 *     howdah restore database xtelem --plan -c conf/demo.toml
 *
 * Exit codes: 0 done, 1 the plan or the cleaning says no, 2 usage, 10 host file, 12 secret, 13 another user
 * is needed, 20 locked, 25 a program failed, 30-33 server, 40 and 42 plan, 51-54 store and backup, 56
 * something is in its place, 57 no space, 59 WAL is missing, 60 the restored database is not what was dumped,
 * 61 target unreached, 62 wrong key or none.
 */
import { clusterVerb } from './backup/recover/verb.ts'
import { cleanVerb } from './backup/recover/clean-verb.ts'
import { databaseVerb } from './backup/restore-verb.ts'
import { main } from './core/cli.ts'

await main({
  name: 'restore',
  summary: 'restore a database, or a whole cluster, from a backup',
  example: 'howdah restore database xtelem --plan -c conf/demo.toml',
  verbs: [databaseVerb, clusterVerb, cleanVerb],
})
