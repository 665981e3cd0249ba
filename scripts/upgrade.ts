#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Takes a cluster to another major of PostgreSQL, with a way back.
 *
 *     howdah upgrade run --to 17 --plan -c conf/demo.toml
 *
 * Exit codes: 0 done, 1 the check says no, 2 usage, 10 host file, 11 a file, 12 secret, 13 another user is needed,
 * 20 locked, 25 a program failed, 30-33 server, 40 and 42 plan, 51-54 store and backup, 56 something is in its place,
 * 57 no space, 59 WAL is missing, 60 the new cluster is not what the old one was, 61 target unreached, 62 wrong key.
 */
import type { LoadedHost } from './cluster/open.ts'
import { type Call, main } from './core/cli.ts'
import { log } from './core/log.ts'
import { packageOf } from './plan/extension-facts.ts'
import { finalizeVerb, rollbackVerb, statusVerb } from './upgrade/after-verb.ts'
import { prepareVerb } from './upgrade/prepare-verb.ts'
import { checkVerb } from './upgrade/check-verb.ts'
import type { Backups } from './upgrade/rehearse-backup.ts'
import { type BackupChoice, rehearseVerb } from './upgrade/rehearse-verb.ts'
import type { Surroundings } from './upgrade/run.ts'
import { resumeVerb, runVerb } from './upgrade/run-verb.ts'

await main({
  name: 'upgrade',
  summary: 'take a cluster to another major of PostgreSQL, with a way back',
  example: 'howdah upgrade run --to 17 --plan -c conf/demo.toml',
  verbs: [
    checkVerb(packageOf),
    rehearseVerb(backupsOf),
    prepareVerb(surroundingsOf),
    runVerb(surroundingsOf),
    resumeVerb(surroundingsOf),
    statusVerb,
    rollbackVerb(surroundingsOf),
    finalizeVerb,
  ],
})

/** What an upgrade needs of settings, jobs and backups. */
function surroundingsOf(loaded: LoadedHost, call: Call): Surroundings {
  return {
    packageOf,
    async provision(host, only, cluster) {
      const { applyHost } = await import('./plan/provision.ts')
      const allow = new Set(['restarts-server', 'rewrites-hba'])
      const scope = { loaded: { ...loaded, host }, overrides: call.overrides, only }
      await applyHost(cluster ? { ...scope, open: () => Promise.resolve(cluster) } : scope, { allow })
    },
    async pausableJobs() {
      const { pausable } = await import('./schedule/pause.ts')
      return pausable(loaded.host)
    },
    async pauseJobs(names) {
      const { pauseAll } = await import('./schedule/pause.ts')
      await pauseAll(loaded.host, names)
    },
    async resumeJobs(stopped) {
      const { resumeAll } = await import('./schedule/pause.ts')
      await resumeAll(loaded.host, stopped)
    },
    async handOver(from, to) {
      const { handOverStores } = await import('./backup/hand-over.ts')
      await handOverStores(loaded.host, from, to)
    },
    async backup(host) {
      const { takeShown, wholeJob } = await import('./backup/before.ts')
      const job = call.options['backup'] === false ? undefined : wholeJob(host)
      if (job === undefined) {
        log('warning', 'upgrade: no backup of the new cluster was taken: take one now')
        return undefined
      }
      return takeShown({ ...loaded, host }, job, call.json)
    },
  }
}

/** What a rehearsal needs of backups. */
function backupsOf({ host }: LoadedHost, choice: BackupChoice): Backups {
  const { onBytes, identity } = choice
  return {
    async find(old) {
      const { findForRehearsal } = await import('./backup/rehearsal.ts')
      return findForRehearsal(old, choice)
    },
    async hold() {
      const { holdForRehearsal } = await import('./backup/rehearsal.ts')
      return holdForRehearsal(host)
    },
    async recover(old, source) {
      const { recoverForRehearsal } = await import('./backup/rehearsal.ts')
      return recoverForRehearsal(old, source, { identity, onBytes })
    },
    async fill(scratch, source, keeper) {
      const { fillForRehearsal } = await import('./backup/rehearsal.ts')
      await fillForRehearsal(scratch, source, { identity, keeper, onBytes })
    },
  }
}
