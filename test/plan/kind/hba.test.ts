import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'smol-toml'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { openCluster } from '../../../scripts/cluster/open.ts'
import { parseHost } from '../../../scripts/host/host.ts'
import { execute } from '../../../scripts/plan/executor.ts'
import type { Facts } from '../../../scripts/plan/kind.ts'
import { hba } from '../../../scripts/plan/kind/hba.ts'
import { linesOf, startServer, type TestServer } from '../../support/server.ts'

const NAME = 'pg_hba.conf'
let server: TestServer
let original: string

beforeAll(async () => {
  server = await startServer()
  original = await readFile(file(), 'utf8')
})
afterAll(async () => {
  await server[Symbol.asyncDispose]()
})
afterEach(async () => {
  await writeFile(file(), original)
  await server.query('postgres', 'select pg_reload_conf()')
})

const file = () => join(server.dir, 'data', NAME)
const text = () => readFile(file(), 'utf8')
const apply = (toml: string) => server.apply([hba], toml)
const plan = (toml: string) => server.plan([hba], toml)
const pending = async (toml: string) => linesOf((await plan(toml)).changes)
const steps = async (toml: string) =>
  (await plan(toml)).changes.flatMap(({ steps }) => steps.map((step) => step.run))
const rules = (...given: object[]) => stringify({ hba: { rules: given } })

const NETWORK = { type: 'host', address: '192.168.0.0/16', method: 'scram-sha-256' }
const SOCKET = { type: 'local', database: 'app', user: 'app', method: 'scram-sha-256' }

/** The first rules of the file, as the server reads them. */
async function served(count: number): Promise<string[]> {
  const rows = await server.query<{ rule: string }>(
    'postgres',
    `select concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','),
                      nullif(address, ''), auth_method, array_to_string(options, ',')) as rule
       from pg_hba_file_rules order by line_number limit ${count}`,
  )
  return rows.map(({ rule }) => rule)
}

describe('hba', () => {
  test('no [hba]: nothing is touched', async () => {
    expect(await plan('')).toMatchObject({ changes: [], findings: [] })
  })

  test('block: pinned rules first, ours in their order, and not a byte of the rest is touched', async () => {
    const toml = rules({ ...NETWORK, user: 'zoe' }, { ...NETWORK, user: 'adam' }, SOCKET)
    expect(await pending(toml)).toEqual([
      [
        `+ hba ${NAME}: 5 lines`,
        'add local all postgres peer',
        'add local replication postgres peer',
        'add host all zoe 192.168.0.0/16 scram-sha-256',
        'add host all adam 192.168.0.0/16 scram-sha-256',
        'add local app app scram-sha-256',
      ].join('\n    '),
    ])
    expect(await steps(toml)).toEqual(['write', 'reload'])
    await apply(toml)
    expect(await served(5)).toEqual([
      'local all postgres peer',
      'local replication postgres peer',
      'host all zoe 192.168.0.0 scram-sha-256',
      'host all adam 192.168.0.0 scram-sha-256',
      'local app app scram-sha-256',
    ])
    expect((await text()).endsWith(`# howdah end\n${original}`)).toBe(true)
    expect(await plan(toml)).toMatchObject({ changes: [], findings: [] })
  })

  test('another order of the same rules: is a change', async () => {
    await apply(rules(NETWORK, SOCKET))
    expect(await pending(rules(SOCKET, NETWORK))).toEqual([`~ hba ${NAME}: the order of rules, or comments`])
  })

  test('a rule taken out of the host file: goes from the block', async () => {
    await apply(rules(NETWORK, SOCKET))
    expect(await pending(rules(NETWORK))).toEqual([`~ hba ${NAME}: remove local app app scram-sha-256`])
    await apply('[hba]')
    expect(await served(2)).toEqual(['local all postgres peer', 'local replication postgres peer'])
    expect(await pending('[hba]')).toEqual([])
  })

  test('the file keeps its owner and mode', async () => {
    const before = await stat(file())
    await apply(rules(NETWORK))
    const { mode, uid, gid } = await stat(file())
    expect({ mode, uid, gid }).toEqual({ mode: before.mode, uid: before.uid, gid: before.gid })
  })

  test('the superuser keeps both of its doors, whatever the rules say', async () => {
    await apply(
      rules(
        { type: 'local', method: 'reject' },
        { type: 'local', database: 'replication', method: 'reject' },
      ),
    )
    expect(await server.query('postgres', 'select 1 as one')).toEqual([{ one: 1 }])
    const answer = await server.withClient('postgres', (client) => client.query('IDENTIFY_SYSTEM'), {
      replication: true,
    })
    expect(answer.rows).toHaveLength(1)
  })

  test('a rule takes effect: a role that is rejected cannot connect any more', async () => {
    await server.query('postgres', `create role "a""b" login`)
    await apply(rules({ type: 'local', user: 'a"b', method: 'trust' }))
    await server.withClient('postgres', () => Promise.resolve(), { user: 'a"b' })
    await apply(rules({ type: 'local', user: 'a"b', method: 'reject' }))
    await expect(
      server.withClient('postgres', () => Promise.resolve(), { user: 'a"b' }),
    ).rejects.toMatchObject({
      code: 'server-denied',
    })
  })

  test('hostile names: the server reads what was meant', async () => {
    const names = [
      'a"b',
      'Ünï cødé',
      'with space',
      'x'.repeat(63),
      'select',
      `'; drop table x; --`,
      'a,b',
      '#c',
      '"all"',
      '"+g"',
      '"@f"',
      'ALL',
    ]
    const toml = rules({ type: 'local', database: names, user: names, method: 'peer', comment: 'C:\\' })
    await apply(toml)
    const meant = names.map((name) => name.replace(/^"(.*)"$/, '$1'))
    expect(
      await server.query(
        'postgres',
        'select database, user_name as user from pg_hba_file_rules order by line_number offset 2 limit 1',
      ),
    ).toEqual([{ database: meant, user: meant }])
    expect(await pending(toml)).toEqual([])
  })

  test('a block that is exported: the plan against it is empty', async () => {
    const toml = rules(
      { ...NETWORK, database: ['a"b', '"all"'], comment: 'two\nlines' },
      {
        type: 'local',
        user: '+staff',
        method: 'peer',
        options: { map: 'a "b", c' },
      },
    )
    await apply(toml)
    const exported = await server.observe('', async (observe) => {
      const context = { host: observe.host, facts: observe.facts }
      return stringify(hba.exported!(await hba.actual(observe), context))
    })
    expect(exported).toContain('mode = "block"')
    expect(await pending(exported)).toEqual([])
    expect(await pending(exported.replace('lines', 'words'))).toHaveLength(1)
  })

  test('a file without our block: nothing is exported', async () => {
    await server.observe('', async (observe) => {
      const context = { host: observe.host, facts: observe.facts }
      expect(hba.exported!(await hba.actual(observe), context)).toEqual({})
    })
  })

  test('the file is where the server says, not where one would guess', async () => {
    const other = join(server.dir, 'data/other')
    await mkdir(other, { recursive: true })
    await writeFile(join(other, 'my_hba.conf'), original)
    await server.query('postgres', `alter system set hba_file = '${other}/my_hba.conf'`)
    await server.cluster.restart()
    try {
      await apply(rules(NETWORK))
      expect(await readFile(join(other, 'my_hba.conf'), 'utf8')).toContain('# howdah begin')
      expect(await text()).toBe(original)
      expect(await pending(rules(NETWORK))).toEqual([])
    } finally {
      await server.query('postgres', 'alter system reset hba_file')
      await server.cluster.restart()
    }
  })
})

describe('hba: mode file', () => {
  const whole = (...given: object[]) => stringify({ hba: { mode: 'file', rules: given } })

  test("the administrator's rules go, which needs consent", async () => {
    const { changes } = await plan(whole(NETWORK))
    expect(changes[0]!.hazards).toEqual(['rewrites-hba'])
    expect(changes[0]!.line).toContain('remove host all all 127.0.0.1/32 scram-sha-256')
    await apply(whole(NETWORK))
    expect(await served(9)).toHaveLength(3)
    expect(await plan(whole(NETWORK))).toMatchObject({ changes: [], findings: [] })
  })

  test('a file that has only what is wanted: no consent is needed', async () => {
    await writeFile(file(), 'local all postgres peer\nlocal replication postgres peer\n# a remark\n')
    expect((await plan(whole(NETWORK))).changes).toMatchObject([{ hazards: [] }])
  })
})

describe('hba: the server judges first', () => {
  const bad = () => {
    const host = server.host(rules({ type: 'local', user: 'x', method: 'radius' }))
    return server.observe('', async (observe) => {
      const context = { host, facts: observe.facts }
      const actual = (await hba.actual(observe)).get(NAME)
      const change = hba.change(NAME, hba.wanted(host, observe.facts).get(NAME)!, actual, context)!
      await execute([change], { open: () => openCluster(host), stateDir: join(server.dir, 'state') })
    })
  }

  test('a set that it refuses: the file is as it was, byte for byte, and it still accepts', async () => {
    await apply(rules(NETWORK))
    const before = await text()
    await expect(bad()).rejects.toMatchObject({
      code: 'change-undone',
      message: expect.stringContaining('pg_hba.conf') as string,
    })
    expect(await text()).toBe(before)
    expect(await server.query('postgres', 'select 1 as one')).toEqual([{ one: 1 }])
    await server.cluster.restart()
    expect(await served(3)).toContain('host all all 192.168.0.0 scram-sha-256')
  })

  test('a hostssl rule while ssl is off: a warning, since the server only remarks on it', async () => {
    const toml = rules({ ...NETWORK, type: 'hostssl' })
    expect((await plan(toml)).findings).toMatchObject([
      { level: 'warning', text: expect.stringContaining('ssl = off') as string },
    ])
    await apply(toml)
    expect((await plan(toml)).changes).toEqual([])
  })

  test("an error in the administrator's lines: said so, and nothing is tried", async () => {
    await writeFile(file(), `${original}host all all 10.0.0.0/99 md5\n`)
    const { changes, findings } = await plan(rules(NETWORK))
    expect(changes).toEqual([])
    expect(findings).toMatchObject([{ level: 'impossible' }])
    expect(findings[0]!.text).toMatch(/pg_hba\.conf:\d+: invalid CIDR mask in address "10\.0\.0\.0\/99"$/)
    expect((await plan(stringify({ hba: { mode: 'file', rules: [NETWORK] } }))).findings).toEqual([])
  })

  test('a run that died between the write and the reload: the reload is planned', async () => {
    const toml = rules({ type: 'local', user: 'nobody', method: 'reject' })
    const onStep = ({ run }: { run: string }) => {
      if (run === 'reload') throw new Error('killed')
    }
    await expect(server.apply([hba], toml, { onStep })).rejects.toThrow('killed')
    await rm(join(server.dir, 'state'), { recursive: true, force: true })
    expect(await pending(toml)).toEqual([`~ hba ${NAME}: on disk, but the server did not read it yet`])
    expect(await steps(toml)).toEqual(['reload'])
    await apply(toml)
    expect(await pending(toml)).toEqual([])
  })
})

describe('hba: findings', () => {
  const texts = async (toml: string) =>
    (await plan(toml)).findings.map(({ level, text }) => `${level}: ${text}`)

  test('trust, md5, password and open networks: each is told with its rule', async () => {
    const open = { ...NETWORK, address: '0.0.0.0/0' }
    expect(await texts(rules({ ...NETWORK, method: 'trust' }, { ...open, user: 'x' }))).toEqual([
      'warning: rule 1, "host all all 192.168.0.0/16 trust": method "trust" lets everybody in as anybody',
      'warning: rule 2, "host all x 0.0.0.0/0 scram-sha-256": the whole world may try',
    ])
  })

  test("what is unsafe in the administrator's lines: is told, as long as they stay", async () => {
    await writeFile(file(), `host all all 0.0.0.0/0 md5\n${original}`)
    const line = 'a line that the host file does not name, "host all all 0.0.0.0/0 md5"'
    expect(await texts(rules(NETWORK))).toEqual([
      `warning: ${line}: method "md5" can be broken, and a stolen verifier is a password`,
      `warning: ${line}: the whole world may try`,
    ])
    expect(await texts(stringify({ hba: { mode: 'file', rules: [NETWORK] } }))).toEqual([])
  })

  test('what cannot be: no change is planned', async () => {
    const planned = await plan(rules({ ...NETWORK, address: '192.168.0.1/16' }))
    expect(planned.changes).toEqual([])
    expect(planned.findings[0]!.text).toContain('its last 16 bits are not zero: write 192.168.0.0/16')
  })

  describe('a role with an md5 verifier', () => {
    beforeEach(async () => {
      await server.withClient('postgres', async (client) => {
        await client.query(`set password_encryption = 'md5'`)
        await client.query(`create role old login password 'Rather-long-7'`)
        await client.query('create role staff')
        await client.query('grant staff to old')
      })
    })
    afterEach(async () => {
      await server.query('postgres', 'drop role old, staff')
    })

    test('cannot log in by a scram rule: said so, by whatever group it comes there', async () => {
      const said = 'role "old" has an md5 verifier and cannot log in by it'
      expect(await texts(rules(NETWORK))).toEqual([
        `warning: rule 1, "host all all 192.168.0.0/16 scram-sha-256": ${said}`,
      ])
      expect(await texts(rules({ ...NETWORK, user: '+staff' }))).toHaveLength(1)
      expect(await texts(rules({ ...NETWORK, user: 'other' }))).toEqual([])
    })

    test('and gets a password in the host file: is mended by the same plan, so not told', async () => {
      expect(await texts(`${rules(NETWORK)}\n[roles.old]\npassword = { env = "X" }`)).toEqual([])
    })
  })

  test('half a block, after somebody edited the markers away: nothing is tried', async () => {
    await writeFile(file(), `# howdah begin: x\nlocal all all peer\n${original}`)
    expect(await texts(rules(NETWORK))).toEqual([
      `impossible: "${file()}": the marker in line 1 has lost its other half`,
    ])
  })

  test('a file that is not UTF-8: is not rewritten, since bytes would be lost', async () => {
    await writeFile(file(), Buffer.concat([Buffer.from('# K\xf6ln\n', 'latin1'), Buffer.from(original)]))
    expect(await texts(rules(NETWORK))).toEqual([`impossible: "${file()}" is not UTF-8 text`])
  })
})

describe('hba: without a server', () => {
  const facts: Facts = {
    major: 15,
    memoryBytes: 2 * 1024 ** 3,
    cpus: 2,
    osUser: 'postgres',
    configDir: '/etc/postgresql/15/main',
    dataDir: '/var/lib/postgresql/15/main',
    socketDir: '/var/run/postgresql',
  }
  const parse = (toml: string) => parseHost(`format = 1\n[host]\nname = "h"\n${toml}`)

  test('a cluster that is made in the same run: ours first, then the usual rules, without any consent', () => {
    const host = parse(`[postgres]\nmajor = 15\n${rules(NETWORK)}`)
    const change = hba.change(NAME, hba.wanted(host, facts).get(NAME)!, undefined, { host, facts })!
    expect(change).toMatchObject({ action: 'create', hazards: [] })
    expect(change.steps).toMatchObject([
      {
        run: 'write',
        path: '/etc/postgresql/15/main/pg_hba.conf',
        mode: 0o640,
        owner: 'postgres',
        check: 'hba',
      },
      { run: 'reload' },
    ])
  })

  test.each([
    [
      'a remote cluster',
      '[postgres]\nkind = "remote"\nurl = "postgres://db/x"',
      'a remote cluster has no files',
    ],
    [
      'a superuser that peer would not let in',
      '[postgres]\nmajor = 15\nsuperuser = "boss"',
      'the superuser "boss" is not',
    ],
  ])('%s: impossible', (_title, postgres, text) => {
    const host = parse(`${postgres}\n${rules(NETWORK)}`)
    const found = hba.findings!(NAME, hba.wanted(host, facts).get(NAME)!, undefined, { host, facts })
    expect(found).toMatchObject([{ level: 'impossible' }])
    expect(found[0]!.text).toContain(text)
  })
})
