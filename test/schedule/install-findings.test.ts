import { chmod, chown, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseHost } from '../../scripts/host/host.ts'
import {
  assertServable,
  assertStores,
  installationFindings,
} from '../../scripts/schedule/install-findings.ts'

const isRoot = process.getuid?.() === 0

let dir: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-findings-'))
  await chmod(dir, 0o755)
  await mkdir(join(dir, 'closed'), { mode: 0o700 })
})
afterAll(() => rm(dir, { recursive: true }))

const MAIL = '[notify.mail]\ncommand = ["/bin/cat"]'

interface Varied {
  readonly store?: string
  readonly schedule?: string
  readonly notify?: string
}

function host({ store = join(dir, 'store'), schedule = '', notify = '' }: Varied) {
  return parseHost(`format = 1
[host]
name = "db1"
[postgres]
major = 15
[store.local]
type = "dir"
path = "${store}"
[backup.nightly]
kind = "dump"
store = "local"
schedule = "0 2 * * *"
[schedule]
${schedule}
${notify}`)
}

describe('what the operator is to know', () => {
  test('nobody is told of failures', async () => {
    expect(await installationFindings(host({}))).toEqual([
      'nobody is told when one of these fails: backup nightly; name whom: [schedule] on_failure = ["NAME"]',
    ])
  })

  test('somebody is told by a program that is not there', async () => {
    const findings = await installationFindings(
      host({
        schedule: 'on_failure = ["mail"]',
        notify: '[notify.mail]\ncommand = ["/usr/sbin/no such", "-t"]',
      }),
    )
    expect(findings).toEqual([
      'notify.mail: there is no program "/usr/sbin/no such": nobody will be told by it',
    ])
  })

  test.runIf(isRoot)('folders of files that are not there, or that their user cannot read', async () => {
    const [closed, missing] = [join(dir, 'closed'), join(dir, 'none yet')]
    const files = `[databases.xtelem]
[reingest.telem]
database = "xtelem"
data_dirs = ["${dir}", "${closed}", "${missing}"]
watch = true
schedule = "@hourly"`
    const findings = await installationFindings(
      host({ schedule: 'on_failure = ["mail"]', notify: `${MAIL}\n${files}` }),
    )
    expect(findings).toEqual([
      `the user postgres cannot read the folder "${closed}": chmod o+rx "${closed}"`,
      `there is no folder "${missing}" to read files from`,
    ])
  })

  test('all is there: nothing', async () => {
    expect(await installationFindings(host({ schedule: 'on_failure = ["mail"]', notify: MAIL }))).toEqual([])
  })
})

describe('what cannot run', () => {
  const told = () =>
    host({
      schedule: 'on_failure = ["chat"]',
      notify: '[notify.chat]\nwebhook = { credential = "hook" }',
    })
  const withArchive = (major: number) =>
    parseHost(`format = 1
[host]
name = "db1"
[postgres]
major = ${major}
[store.local]
type = "dir"
path = "/srv/x"
[archive]
store = "local"
`)

  test('a credential where systemd loses it for units of several programs: a file is to be named', () => {
    expect(() => assertServable(told(), 247)).toThrow(
      'systemd 247 cannot give the credential "hook" to a job',
    )
    expect(() => assertServable(told(), 248)).not.toThrow()
    expect(() => assertServable(host({}), 247)).not.toThrow()
  })

  test('an archive of a server that is too old for one: is refused, rather than to fail each few seconds', () => {
    expect(() => assertServable(withArchive(14), 252)).toThrow(
      'WAL is archived from PostgreSQL 15 on, this is 14',
    )
    expect(() => assertServable(withArchive(15), 252)).not.toThrow()
  })
})

describe.runIf(isRoot)('a store that its user cannot get to', () => {
  test.each(['store', 'deep/er', 'deep/er/store "x"'])(
    'closed/%s: is refused, and says which folder',
    async (name) => {
      const store = join(dir, 'closed', name)
      await expect(assertStores(host({ store: store.replaceAll('"', '\\"') }))).rejects.toMatchObject({
        code: 'not-permitted',
        message: `the user postgres cannot get to the store "${store}": "${dir}/closed" is closed to it`,
        hint: expect.stringContaining(`chmod o+x ${dir}/closed`),
      })
    },
  )

  test('there already, or to be made: may be', async () => {
    await expect(assertStores(host({}))).resolves.toBeUndefined()
    await mkdir(join(dir, 'own'), { mode: 0o700 })
    await chown(join(dir, 'own'), 65_534, 65_534)
    await expect(assertStores(host({ store: join(dir, 'own') }))).resolves.toBeUndefined()
  })
})
