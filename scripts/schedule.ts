#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Runs jobs at their times by systemd, and tells of failures.
 *
 *     howdah schedule list -c conf/demo.toml
 *
 * `run` is a service: it ends by SIGTERM, with 0. Exit codes: 0 done, 1 check found something or diff does, 2 usage,
 * 10 host file, 11 a file, 13 another user is needed, 20 locked, 25 a program failed, or somebody could
 * not be told, 30-33 server.
 */
import { main } from './core/cli.ts'
import { checkVerb } from './schedule/check-verb.ts'
import { installVerb } from './schedule/install-verb.ts'
import { listVerb, nextVerb } from './schedule/list-verb.ts'
import { notifyVerb } from './schedule/notify-verb.ts'
import { pauseVerb, resumeVerb } from './schedule/pause-verb.ts'
import { prepareVerb } from './schedule/prepare-verb.ts'
import { recordVerb } from './schedule/record-verb.ts'
import { removeVerb } from './schedule/remove-verb.ts'
import { diffVerb, renderVerb } from './schedule/render-verb.ts'
import { runVerb } from './schedule/run-verb.ts'

await main({
  name: 'schedule',
  summary: 'run jobs at their times by systemd, and tell of failures',
  example: 'howdah schedule list -c conf/demo.toml',
  verbs: [
    renderVerb,
    diffVerb,
    installVerb,
    removeVerb,
    listVerb,
    nextVerb,
    checkVerb,
    pauseVerb,
    resumeVerb,
    runVerb,
    prepareVerb,
    recordVerb,
    notifyVerb,
  ],
})
