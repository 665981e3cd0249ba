import { rm, writeFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openCluster } from '../../scripts/cluster/open.ts'
import { libpqSsl } from '../../scripts/cluster/remote.ts'
import { makeVerifier } from '../../scripts/cluster/scram.ts'
import { ident, literal } from '../../scripts/cluster/sql.ts'
import { run } from '../../scripts/core/exec.ts'
import { parseHost } from '../../scripts/host/host.ts'
import { freePort } from '../support/port.ts'
import { startServer, type TestServer } from '../support/server.ts'

const PASSWORD = 'correct horse ß\'"\\ $x'
const hasIpv6 = Object.values(networkInterfaces()).some((found) =>
  found?.some(({ address }) => address === '::1'),
)

let server: TestServer
let port: number
beforeAll(async () => {
  port = await freePort()
  const addresses = hasIpv6 ? '127.0.0.1,::1' : '127.0.0.1'
  server = await startServer({ settings: { listen_addresses: addresses, port: String(port) } })
  const verifier = literal(await makeVerifier(PASSWORD))
  await server.query('postgres', `create role boss superuser login password ${verifier}`)
  await server.query('postgres', `create role ${ident('b@ss/"x"')} login password ${verifier}`)
  await writeFile(join(server.dir, 'password'), `${PASSWORD}\n`)
  await writeFile(join(server.dir, 'wrong'), 'wrong\n')
  await makeCertificates()
})
afterAll(() => server[Symbol.asyncDispose]())

/** Two authorities, and a certificate of the first for 127.0.0.1, ::1 and db.example.org. */
async function makeCertificates(): Promise<void> {
  const script = `
    set -e; cd "$1"
    for name in ca other; do
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$name" -keyout $name.key -out $name.pem
    done
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=db.example.org -keyout data/server.key -out server.csr
    printf 'subjectAltName=DNS:db.example.org,IP:127.0.0.1,IP:::1' >san
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out data/server.crt
    chmod 600 data/server.key`
  await run(['sh', '-c', script, 'sh', server.dir], { as: server.cluster.osUser })
}

const header = (url: string, lines: readonly string[]) =>
  ['format = 1', '[host]', 'name = "x"', '[postgres]', 'kind = "remote"', `url = "${url}"`, ...lines].join(
    '\n',
  )

const secret = (name = 'password') => `password = { file = "${server.dir}/${name}" }`
const ca = (name: string) => `ca_file = "${server.dir}/${name}.pem"`

async function open(lines: readonly string[], host = '127.0.0.1', user = 'boss') {
  return (await openCluster(parseHost(header(`postgres://${user}@${host}:${port}/`, lines))))!
}

/** What a connection to the opened cluster says about itself. */
async function sessionOf(lines: readonly string[], host?: string) {
  const client = await (await open(lines, host)).connect('postgres')
  try {
    const { rows } = await client.query<{ who: string; tls: boolean }>(
      'select current_user::text as who, ssl as tls from pg_stat_ssl where pid = pg_backend_pid()',
    )
    return rows[0]
  } finally {
    await client.end()
  }
}

const PLAIN = 'sslmode = "disable"'

describe('a remote cluster', () => {
  test('its facts: those of the server and of the URL', async () => {
    expect(await open([PLAIN, secret()])).toMatchObject({
      kind: 'remote',
      label: `remote cluster 127.0.0.1:${port}`,
      major: server.major,
      port,
      superuser: 'boss',
      dataDir: '',
      configDir: '',
      osUser: '',
      bindir: expect.stringMatching(/^\/usr\/lib\/postgresql\/\d+\/bin$/),
    })
  })

  test('a password from a file: lets in, in the clear when that was asked for', async () => {
    expect(await sessionOf([PLAIN, secret()])).toEqual({ who: 'boss', tls: false })
  })

  test('a name with special letters: is written with % in the URL', async () => {
    const cluster = await open([PLAIN, secret()], '127.0.0.1', encodeURIComponent('b@ss/"x"'))
    expect(cluster.superuser).toBe('b@ss/"x"')
  })

  test.runIf(hasIpv6)('an address of version 6: stands in brackets', async () => {
    expect(await sessionOf([PLAIN, secret()], '[::1]')).toEqual({ who: 'boss', tls: false })
  })

  test.each(['start', 'stop', 'restart'] as const)(
    '%s: is refused, since its host cannot be reached',
    async (verb) => {
      const cluster = await open([PLAIN, secret()])
      await expect(cluster[verb]()).rejects.toMatchObject({
        code: 'not-permitted',
        message: `cannot ${verb} remote cluster 127.0.0.1:${port}: it is reached by its URL only`,
      })
    },
  )

  test('programs of PostgreSQL: get in with what they are given, and the password is in no argument', async () => {
    const { argv, env } = (await open([PLAIN, secret()])).clientArguments('postgres')
    expect(argv.join(' ')).not.toContain('horse')
    const psql = [join(server.cluster.bindir, 'psql'), ...argv, '-X', '-A', '-t', '-c', 'select current_user']
    expect((await run(psql, { env })).stdout).toBe('boss\n')
  })

  test.each([
    [
      'a wrong password',
      () => [PLAIN, secret('wrong')],
      'server-denied',
      /password authentication failed for user "boss"$/,
      'Is the password right?',
    ],
    [
      'no password',
      () => [PLAIN],
      'server-denied',
      /: it asks for a password, and there is none$/,
      /postgres.password = \{ file/,
    ],
    [
      'a password file that is not there',
      () => [PLAIN, secret('none')],
      'secret',
      /\/none" does not exist$/,
      /howdah secret generate/,
    ],
    [
      'another major',
      () => [PLAIN, secret(), 'major = 13'],
      'cluster-mismatch',
      /is of major \d+, the host file says 13$/,
      /^Set postgres.major = \d+\.$/,
    ],
    [
      'a server without TLS, by default',
      () => [secret()],
      'server-unreachable',
      /does not support SSL connections$/,
      /sslmode = "disable"/,
    ],
    [
      'an authority that cannot be read',
      () => [secret(), ca('none')],
      'file-unreadable',
      /^cannot read ca_file ".*none.pem"/,
      /^Look at it: ls -l \/.*none.pem$/,
    ],
  ])('%s: one clear error', async (...[, lines, code, message, hint]) => {
    await expect(open(lines())).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
      hint: expect.stringMatching(hint),
    })
  })

  test('nobody is there: one clear error', async () => {
    await expect(
      openCluster(parseHost(header('postgres://boss@127.0.0.1:1/', [PLAIN]))),
    ).rejects.toMatchObject({
      code: 'server-unreachable',
      message:
        'cannot connect to remote cluster 127.0.0.1:1, database "postgres", as role "boss": no server listens there',
    })
  })

  test('sslmode prefer: goes on in the clear where the server has no TLS', async () => {
    expect(await sessionOf(['sslmode = "prefer"', secret()])).toEqual({ who: 'boss', tls: false })
  })
})

describe('a remote cluster with TLS', () => {
  beforeAll(async () => {
    await server.query('postgres', 'alter system set ssl = on')
    await server.query('postgres', 'select pg_reload_conf()')
    while ((await server.query('postgres', 'show ssl'))[0]?.['ssl'] !== 'on') await sleep(10)
  })
  afterAll(() => rm(join(server.dir, 'data/postgresql.auto.conf')))

  test.each([
    ['prefer', () => ['sslmode = "prefer"'], '127.0.0.1'],
    ['require, whoever signed it', () => ['sslmode = "require"'], '127.0.0.1'],
    ['verify-ca, whatever its name', () => ['sslmode = "verify-ca"', ca('ca')], 'localhost'],
    ['verify-full', () => ['sslmode = "verify-full"', ca('ca')], '127.0.0.1'],
    ['verify-full by default', () => [ca('ca')], '127.0.0.1'],
  ])('%s: is let in, by TLS', async (_, lines, host) => {
    expect(await sessionOf([...lines(), secret()], host)).toEqual({ who: 'boss', tls: true })
  })

  test('disable: is let in, in the clear', async () => {
    expect(await sessionOf([PLAIN, secret()])).toEqual({ who: 'boss', tls: false })
  })

  test.each([
    ['verify-full, another authority', () => [ca('other')], '127.0.0.1', /certificate/],
    [
      'verify-ca, another authority',
      () => ['sslmode = "verify-ca"', ca('other')],
      '127.0.0.1',
      /certificate/,
    ],
    ['verify-full, no authority of our own', () => [], '127.0.0.1', /certificate/],
    ['verify-full, another name', () => [ca('ca')], 'localhost', /altnames/],
  ])('%s: is refused before the password is sent', async (_, lines, host, message) => {
    await expect(open([...lines(), secret()], host)).rejects.toMatchObject({
      code: 'server-unreachable',
      message: expect.stringMatching(message),
      hint: expect.stringContaining('postgres.ca_file'),
    })
  })

  const psqlWith = async (lines: readonly string[], more: Record<string, string> = {}) => {
    const { argv, env } = (await open([...lines, secret()])).clientArguments('postgres')
    const psql = [join(server.cluster.bindir, 'psql'), ...argv, '-X', '-A', '-t', '-c', 'select 1']
    return run(psql, { env: { ...env, ...more }, okCodes: [0, 2] })
  }

  test('programs of PostgreSQL: are let in as we are', async () => {
    expect(await psqlWith([ca('ca')])).toEqual({ code: 0, stdout: '1\n', stderr: '' })
    expect(await psqlWith(['sslmode = "require"'])).toEqual({ code: 0, stdout: '1\n', stderr: '' })
  })

  test('programs of PostgreSQL: without an authority of our own ask those of the system, not the home folder', async () => {
    const { env } = (await open(['sslmode = "verify-ca"', ca('ca'), secret()])).clientArguments('postgres')
    expect(env['PGSSLROOTCERT']).toBe(`${server.dir}/ca.pem`)
    const system = libpqSsl(parseHost(header('postgres://boss@127.0.0.1/', [])).postgres)
    expect((await psqlWith([ca('ca')], system)).stderr).toContain('certificate verify failed')
  })
})
