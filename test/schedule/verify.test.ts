import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { systemdVersion } from '../../scripts/schedule/systemd.ts'
import type { UnitFile } from '../../scripts/schedule/unit.ts'
import { verifyUnits } from '../../scripts/schedule/verify-units.ts'
import { DIR_JOB, NOTIFIED, READING_JOB, S3_JOB, TOLD_AS_ROOT, unitsOf } from '../support/units.ts'

// What systemd itself says of the units, without running it.

let folder: string
let version: number

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'howdah verify 100% $x-'))
  await mkdir(join(folder, 'scripts'))
  await writeFile(join(folder, 'scripts/howdah'), '#!/bin/sh\n')
  await chmod(join(folder, 'scripts/howdah'), 0o755)
  version = await systemdVersion()
})

afterAll(() => rm(folder, { recursive: true }))

const ROOT_JOB = `${DIR_JOB}user = "root"\n`
const METRICS = '[schedule]\nmetrics_dir = "/var/lib/metrics of node"\n'

const HOSTS: readonly (readonly [string, readonly string[]])[] = [
  ['a store in a folder', [DIR_JOB, METRICS]],
  ['a store in S3', [S3_JOB]],
  ['both, and somebody to tell', [DIR_JOB, S3_JOB, NOTIFIED]],
  ['a job of root', [ROOT_JOB]],
  ['root for all of them', [DIR_JOB, '[schedule]\nuser = "root"\n']],
  ['files that are read at times and as they are written', [READING_JOB, NOTIFIED]],
  ['a program that tells as root', [DIR_JOB, S3_JOB, TOLD_AS_ROOT]],
]

test.each(HOSTS)('verify: %s: systemd has nothing to say', async (_title, texts) => {
  await expect(verifyUnits(rendered(texts), version)).resolves.toBeUndefined()
})

test('verify: a hostile path of the host file: systemd has nothing to say', async () => {
  const hostFile = `/etc/how dah/100%i $HOME "a'b\\;\n[Service]\nType=simple\u0085\uFFFE`
  await expect(verifyUnits(rendered([DIR_JOB, S3_JOB], hostFile), version)).resolves.toBeUndefined()
})

test.each<[string, string, (content: string) => string, RegExp]>([
  [
    'an unknown key, for which systemd-analyze ends with 0',
    'howdah-backup-nightly.service',
    (content) => content.replace('Type=oneshot', 'Type=oneshot\nReadWritePath=/srv'),
    /howdah-backup-nightly\.service:\d+: Unknown key .*'ReadWritePath'/,
  ],
  [
    'a bad second OnCalendar=, for which it ends with 0',
    'howdah-backup-nightly.timer',
    (content) => content.replace(/^OnCalendar=Fri .*$/m, 'OnCalendar=Fry *-*-* 04:30:00 UTC'),
    /howdah-backup-nightly\.timer:\d+: Failed to parse calendar specification/,
  ],
  [
    'a limit that means nothing, for which it ends with 0',
    'howdah-backup-nightly.service',
    (content) => content.replace('TimeoutStartSec', 'RuntimeMaxSec'),
    /RuntimeMaxSec= has no effect/,
  ],
  [
    'a path that it passes over, for which it ends with 0',
    'howdah-backup-nightly.service',
    (content) => content.replace('ReadWritePaths=', 'ReadWritePaths=srv '),
    /is not absolute/,
  ],
  [
    'a program that is not there',
    'howdah-check.service',
    (content) => content.replace('scripts/howdah', 'scripts/gone'),
    /scripts\/gone is not executable/,
  ],
])('verify: %s: is found', async (_title, name, change, message) => {
  const units = rendered([DIR_JOB, METRICS])
  const changed = units.map((unit) => (unit.name === name ? { name, content: change(unit.content) } : unit))
  expect(changed).not.toEqual(units)
  await expect(verifyUnits(changed, version)).rejects.toMatchObject({
    code: 'plan-impossible',
    hint: expect.stringMatching(message),
  })
})

test.each(HOSTS)(
  'security: %s: at most 3.0 for what works, 2.0 for what tells; 2.6 where that is root, for its mailer',
  async (_title, texts) => {
    const tellsAsRoot = texts.includes(TOLD_AS_ROOT)
    const services = rendered(texts).filter(({ name }) => name.endsWith('.service'))
    const above = []
    for (const unit of services) {
      const isTelling = /^howdah-(alert@|check)\.service$/.test(unit.name)
      const most = isTelling ? (tellsAsRoot ? 2.6 : 2) : 3
      const exposure = await exposureOf(unit)
      if (exposure > most) above.push(`${unit.name} ${exposure}`)
    }
    expect(above).toEqual([])
  },
)

test('security: a unit without its sandbox: is far above', async () => {
  const unit = rendered([DIR_JOB]).find(({ name }) => name === 'howdah-backup-nightly.service')!
  const bare = unit.content.replace(/^(Protect|Private|Restrict|System|Capab|NoNew).*\n/gm, '')
  await expect(exposureOf({ ...unit, content: bare })).resolves.toBeGreaterThan(6)
})

function rendered(texts: readonly string[], hostFile = '/etc/howdah/host.toml'): UnitFile[] {
  return unitsOf(texts, { systemd: version, program: folder, hostFile })
}

/** From 0 to 10, by `systemd-analyze security`; 10 is no sandbox at all. */
async function exposureOf({ name, content }: UnitFile): Promise<number> {
  const path = join(folder, name)
  await writeFile(path, content)
  const { stdout } = await run(
    ['systemd-analyze', 'security', '--offline=true', '--no-pager', '--threshold=0', path],
    { okCodes: [1], env: { LC_ALL: 'C.UTF-8' } },
  )
  return Number(/Overall exposure level for \S+: ([\d.]+)/.exec(stdout)![1])
}
