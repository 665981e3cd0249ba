import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { readTextIfAny } from '../../scripts/core/file.ts'
import { run } from '../../scripts/core/exec.ts'
import { compareManifests } from '../../scripts/upgrade/compare.ts'
import { takeManifest } from '../../scripts/upgrade/manifest.ts'
import { makeRich } from '../support/rich.ts'
import { runScript, type ScriptResult } from '../support/script.ts'
import { newestMajor } from '../support/server.ts'
import { type UpgradeHost, upgradeHost } from '../support/upgrade.ts'

const FROM = await newestMajor()
const TO = 17

const argsOf = (host: UpgradeHost, method: string) => {
  return ['upgrade', 'run', '--to', String(TO), '--bindir', host.bindir, '--method', method, '-c', host.file]
}

/** What the journal says, as soon as it says something else than before. */
async function phaseOf(host: UpgradeHost): Promise<string | undefined> {
  const text = await readTextIfAny(join(host.server.dir, 'state/journal/upgrade-port-5432.json'))
  return text === undefined ? undefined : JSON.parse(text).phase
}

/** Ends a run with SIGKILL once it has come to a phase. */
async function killAt(host: UpgradeHost, method: string, phase: string): Promise<ScriptResult> {
  return runScript(argsOf(host, method), {
    onStart: async (pid) => {
      while ((await phaseOf(host)) !== phase) await sleep(2)
      process.kill(pid, 'SIGKILL')
    },
  })
}

/** Names of the servers that run in a host's folder. */
async function servers(host: UpgradeHost): Promise<string[]> {
  const { stdout } = await run(['pgrep', '-f', `^[^ ]*/postgres -D ${host.server.dir}`], { okCodes: [0, 1] })
  return stdout.split('\n').filter(Boolean)
}

// With HOWDAH_SOAK each phase of each method, which takes six minutes; else those that differ.
const PHASES = ['make', 'close', 'transfer', 'start', 'open', 'after']
const EVERY = ['copy', 'link', 'dump'].flatMap((method) => PHASES.map((phase) => [method, phase] as const))
const SOME = [
  ['copy', 'transfer'],
  ['copy', 'start'],
  ['copy', 'after'],
  ['dump', 'transfer'],
  ['dump', 'open'],
  ['link', 'transfer'],
  ['link', 'start'],
  ['link', 'open'],
] as const

test.each(process.env['HOWDAH_SOAK'] ? EVERY : SOME)(
  'upgrade run by %s, killed in the phase %s: run again it comes to its end, and everything is there once',
  { timeout: 120_000 },
  async (method, phase) => {
    await using host = await upgradeHost([FROM, TO])
    await makeRich(host.server, join(host.server.dir, 'space'))
    const before = await takeManifest(host.server.cluster, { verify: 'content' })
    expect((await killAt(host, method, phase)).signal).toBe('SIGKILL')
    const again = await runScript([...argsOf(host, method), '--json'])
    expect(again.stderr).not.toMatch(/error/)
    const cluster = await host.cluster()
    expect(cluster.major).toBe(TO)
    expect(compareManifests(before, await takeManifest(cluster, { verify: 'content' }))).toEqual([])
    expect(await servers(host)).toHaveLength(1)
  },
)

test('upgrade rollback, killed in its midst: done again, it goes back', { timeout: 120_000 }, async () => {
  await using host = await upgradeHost([FROM, TO])
  await makeRich(host.server, join(host.server.dir, 'space'))
  const before = await takeManifest(host.server.cluster, { verify: 'content' })
  await killAt(host, 'copy', 'start')
  const killed = await runScript(['upgrade', 'rollback', '-c', host.file], {
    onStart: async (pid) => {
      while ((await phaseOf(host)) !== 'back') await sleep(2)
      process.kill(pid, 'SIGKILL')
    },
  })
  expect(killed.signal).toBe('SIGKILL')
  const back = await runScript(['upgrade', 'rollback', '-c', host.file])
  expect(back.stderr).not.toMatch(/error/)
  const cluster = await host.cluster()
  expect(cluster.major).toBe(FROM)
  expect(compareManifests(before, await takeManifest(cluster, { verify: 'content' }))).toEqual([])
  expect(await servers(host)).toHaveLength(1)
  expect(await phaseOf(host)).toBeUndefined()
})

test.each(['make', 'close'])(
  'upgrade rollback after a run by copy that was killed in the phase %s: the old cluster serves, nothing of the new one is left',
  { timeout: 120_000 },
  async (phase) => {
    await using host = await upgradeHost([FROM, TO])
    await makeRich(host.server, join(host.server.dir, 'space'))
    const before = await takeManifest(host.server.cluster, { verify: 'content' })
    await killAt(host, 'copy', phase)
    const back = await runScript(['upgrade', 'rollback', '-c', host.file])
    expect(back.stderr).not.toMatch(/error/)
    expect((await host.cluster()).major).toBe(FROM)
    expect(compareManifests(before, await takeManifest(await host.cluster(), { verify: 'content' }))).toEqual(
      [],
    )
    expect(await readdir(host.server.dir)).not.toContain('data-17')
    expect(await readdir(join(host.server.dir, 'space'))).toHaveLength(1)
    expect(await phaseOf(host)).toBeUndefined()
  },
)
