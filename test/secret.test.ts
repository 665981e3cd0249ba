import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { userId } from '../scripts/cluster/connect.ts'
import { run } from '../scripts/core/exec.ts'
import { makeVerifier, matchesVerifier } from '../scripts/cluster/scram.ts'
import { ident, literal } from '../scripts/cluster/sql.ts'
import { ROOT, runScript, type ScriptResult } from './support/script.ts'
import { startServer, type TestServer } from './support/server.ts'

const isRoot = process.getuid?.() === 0
const me = isRoot ? 'root' : undefined

let server: TestServer
/** A new folder for each test. */
let dir: string
let serial = 0
beforeAll(async () => {
  server = await startServer({ settings: { log_statement: 'all', wal_level: 'replica' } })
})
afterAll(() => server[Symbol.asyncDispose]())
beforeEach(async () => {
  dir = join(server.dir, `secrets-${(serial += 1)}`)
  await mkdir(dir)
})
afterEach(async () => {
  await server.query('postgres', 'drop role if exists app; drop role if exists other')
})

const secret = (...args: string[]): Promise<ScriptResult> => runScript(['secret', ...args])

describe('secret generate', () => {
  test('a new file: 32 letters and digits, 0400, and not a word of it is printed', async () => {
    const file = join(dir, 'deep/er/app')
    const result = await secret('generate', file)
    expect(result).toEqual({
      code: 0,
      signal: null,
      stdout: `made ${file} (0400, owner ${me})\n`,
      stderr: '',
    })
    const text = await readFile(file, 'utf8')
    expect(text).toMatch(/^[A-Za-z0-9]{32}\n$/)
    expect((await stat(file)).mode & 0o777).toBe(0o400)
    expect((await stat(join(dir, 'deep/er'))).mode & 0o777).toBe(0o750)
    expect(await readdir(join(dir, 'deep/er'))).toEqual(['app'])
  })

  test('two files: differ', async () => {
    await secret('generate', join(dir, 'a'))
    await secret('generate', join(dir, 'b'))
    expect(await readFile(join(dir, 'a'), 'utf8')).not.toBe(await readFile(join(dir, 'b'), 'utf8'))
  })

  test('a file that is there: is kept, whatever it holds, and that is said', async () => {
    const file = join(dir, 'app')
    await writeFile(file, 'mine')
    const result = await secret('generate', file, '--length', '64')
    expect(result).toEqual({
      code: 0,
      signal: null,
      stdout: `kept ${file}: it is there already\n`,
      stderr: '',
    })
    expect(await readFile(file, 'utf8')).toBe('mine')
  })

  test('four at once: one makes it, three keep it, and it is whole', async () => {
    const file = join(dir, 'app')
    const results = await Promise.all(Array.from({ length: 4 }, () => secret('generate', file)))
    expect(results.filter(({ stdout }) => stdout.startsWith('made ')).length).toBe(1)
    expect(results.filter(({ stdout }) => stdout.startsWith('kept ')).length).toBe(3)
    expect(await readFile(file, 'utf8')).toMatch(/^[A-Za-z0-9]{32}\n$/)
    expect(await readdir(dir)).toEqual(['app'])
  })

  test('a link that points nowhere: is not followed', async () => {
    const file = join(dir, 'app')
    await symlink(join(dir, 'elsewhere'), file)
    const result = await secret('generate', file)
    expect(result.stdout).toBe(`kept ${file}: it is there already\n`)
    expect(await readdir(dir)).toEqual(['app'])
  })

  test.runIf(isRoot)('another owner: has the file, and may pass the folder', async () => {
    const file = join(dir, 'own/app')
    const result = await secret('generate', file, '--owner', 'nobody')
    expect(result.stdout).toBe(`made ${file} (0400, owner nobody)\n`)
    const { uid, gid } = userId('nobody')
    expect(await stat(file)).toMatchObject({ uid, gid })
    expect(await stat(join(dir, 'own'))).toMatchObject({ uid: 0, gid })
  })

  test.runIf(isRoot)('another owner, and not root: who is needed is said', async () => {
    await chmod(dir, 0o777)
    const result = await runScript(['secret', 'generate', join(dir, 'app'), '--owner', 'postgres'], {
      uid: userId('nobody').uid,
    })
    expect(result).toEqual({
      code: 13,
      signal: null,
      stdout: '',
      stderr:
        'secret: error [not-permitted] only root can make a file for user "postgres"\nsecret: hint: Run it with sudo.\n',
    })
  })

  test.each(['21', '1025', '3.5', 'many'])('--length %s: usage', async (length) => {
    const result = await secret('generate', join(dir, 'app'), '--length', length)
    expect(result).toEqual({
      code: 2,
      signal: null,
      stdout: '',
      stderr: `secret: error [usage] "${length}" is no length for a secret\nsecret: hint: Give a whole number from 22 to 1024.\n`,
    })
    expect(await readdir(dir)).toEqual([])
  })

  test('no file: all that the host file misses, once each; --plan makes none', async () => {
    await writeFile(join(dir, 'b'), 'correct horse\n')
    const file = await hostFile(
      ['c', 'b', 'a', 'a'].map((name, index) => `[roles.r${index}]\npassword = { file = "${dir}/${name}" }`),
      '[roles.gone]\nstate = "absent"\n[roles.open]\npassword = false\n[roles.env]\npassword = { env = "X" }',
    )
    const plan = await secret('generate', '-c', file, '--plan')
    expect(plan.stderr).toBe('')
    expect(plan.stdout).toBe(
      `would make ${dir}/a (0400, owner ${me})\nkept ${dir}/b: it is there already\nwould make ${dir}/c (0400, owner ${me})\n`,
    )
    expect((await readdir(dir)).toSorted()).toEqual(['b', 'host.toml'])
    const result = await secret('generate', '-c', file, '--json')
    expect(JSON.parse(result.stdout)).toEqual({
      format: 1,
      script: 'secret',
      verb: 'generate',
      ok: true,
      result: {
        plan: false,
        files: [
          { file: `${dir}/a`, made: true },
          { file: `${dir}/b`, made: false },
          { file: `${dir}/c`, made: true },
        ],
      },
    })
    expect((await readdir(dir)).toSorted()).toEqual(['a', 'b', 'c', 'host.toml'])
  })
})

describe('secret age', () => {
  const PAIR =
    /^# Keep this elsewhere.*\n# In the host file: \[encryption\] recipients = \["(age1[0-9a-z]{58})"\]\n(AGE-SECRET-KEY-1[0-9A-Z]{58})\n$/
  const age = (...args: string[]) => secret('age', ...args)

  test('without a file: what is printed is a file that age reads, and nothing of it is on the disk', async () => {
    const { code, stdout, stderr } = await age()
    expect([code, stderr]).toEqual([0, ''])
    const [, recipient] = PAIR.exec(stdout)!
    const path = join(dir, 'saved')
    await writeFile(path, stdout)
    expect((await run(['age-keygen', '-y', path])).stdout.trim()).toBe(recipient)
  })

  test('twice: two pairs', async () => {
    expect((await age()).stdout).not.toBe((await age()).stdout)
  })

  test('--json: both halves; with --out the public one only', async () => {
    const both = JSON.parse((await age('--json')).stdout) as { result: Record<string, string> }
    expect(both.result).toEqual({
      plan: false,
      recipient: expect.stringMatching(/^age1/),
      file: null,
      identity: expect.stringMatching(/^AGE-SECRET-KEY-1/),
    })
    const file = join(dir, 'identity')
    const { stdout, stderr } = await age('--json', '--out', file)
    expect(JSON.parse(stdout)).toMatchObject({
      ok: true,
      result: { file, recipient: expect.stringMatching(/^age1/) },
    })
    expect(stdout + stderr).not.toContain('AGE-SECRET-KEY')
  })

  test('--out: a new file of 0400 that age reads, and its private key is not printed', async () => {
    const file = join(dir, 'deep/identity')
    const { code, stdout, stderr } = await age('--out', file)
    expect([code, stderr]).toEqual([0, ''])
    expect(stdout).not.toContain('AGE-SECRET-KEY')
    const recipient = /recipients = \["(age1\w+)"\]/.exec(stdout)![1]
    expect((await stat(file)).mode & 0o777).toBe(0o400)
    expect((await run(['age-keygen', '-y', file])).stdout.trim()).toBe(recipient)
    expect(await readdir(join(dir, 'deep'))).toEqual(['identity'])
  })

  test.runIf(isRoot)('--out with an owner: has the file', async () => {
    const file = join(dir, 'own/identity')
    expect((await age('--out', file, '--owner', 'nobody')).code).toBe(0)
    expect((await stat(file)).uid).toBe(userId('nobody').uid)
  })

  test('--out of a file that is there: an error, since backups may need it, and it stays', async () => {
    const file = join(dir, 'identity')
    await writeFile(file, 'mine')
    const { code, stdout, stderr } = await age('--out', file)
    expect([code, stdout]).toEqual([11, ''])
    expect(stderr).toContain('it is there already')
    expect(await readFile(file, 'utf8')).toBe('mine')
  })

  test('--plan: says what it would do, and makes nothing', async () => {
    expect(await age('--plan')).toMatchObject({
      code: 0,
      stdout: 'would make a pair of keys, and print both\n',
    })
    const file = join(dir, 'identity')
    expect((await age('--plan', '--out', file)).stdout).toBe(
      `would make a pair of keys, and write the private one to ${file} (0400, owner ${me})\n`,
    )
    expect(await readdir(dir)).toEqual([])
  })

  test('without age on the machine: not-permitted, with its name', async () => {
    for (const name of ['sh', 'bash', 'ps']) await symlink(`/bin/${name}`, join(dir, name))
    const { code, stderr } = await runScript(['secret', 'age'], { env: { PATH: dir } })
    expect(code).toBe(13)
    expect(stderr).toContain('age-keygen')
  })
})

describe('secret check', () => {
  test('everything in order: exit code 0', async () => {
    const file = await appWith('correct horse')
    const result = await secret('check', '-c', file)
    expect(result).toEqual({
      code: 0,
      signal: null,
      stdout: `  role app  file "${dir}/app"  0400 ${me}  the server has it\n1 secret, 0 with a problem\n`,
      stderr: '',
    })
  })

  test('every kind of problem: named with the next command, exit code 1, no secret shown', async () => {
    await writeSecret('app', 'another horse')
    await writeSecret('wide', 'correct horse', 0o644)
    await writeSecret('weak', 'changeme')
    await server.query('postgres', `create role app password ${literal(await makeVerifier('correct horse'))}`)
    await server.query('postgres', `create role other`)
    const file = await hostFile([
      `[roles.app]\npassword = { file = "${dir}/app" }`,
      `[roles.other]\npassword = { file = "${dir}/wide" }`,
      `[roles.weak]\npassword = { file = "${dir}/weak" }`,
      `[roles."is missing"]\npassword = { file = "${dir}/missing" }`,
      `[roles.env]\npassword = { env = "HOWDAH_NOT_SET" }`,
    ])
    const result = await secret('check', '-c', file)
    expect(result.code).toBe(1)
    expect(result.stderr).toBe('')
    expect(result.stdout.replaceAll(/(?<=\S) {2,}/g, ' | ').split('\n')).toEqual([
      `! role app | file "${dir}/app" | 0400 ${me} | the server has another password`,
      '    Give it this one with: howdah provision apply --only role',
      `! role other | file "${dir}/wide" | 0644 ${me} | its mode 0644 is wider than 0640`,
      `    Keep it from others: chmod 0400 ${dir}/wide`,
      '    the server has no password for this role',
      '    Give it this one with: howdah provision apply --only role',
      `! role weak | file "${dir}/weak" | 0400 ${me} | it is a placeholder or a well-known default`,
      `    Remove it and make a random one with: howdah secret generate ${dir}/weak`,
      `! role "is missing" | file "${dir}/missing" | secret file "${dir}/missing" does not exist`,
      `    Make it with: howdah secret generate ${dir}/missing`,
      '! role env | environment variable HOWDAH_NOT_SET | environment variable HOWDAH_NOT_SET is not set',
      '    Set HOWDAH_NOT_SET for this command, or refer to the secret by { file = ... }.',
      '5 secrets, 5 with a problem',
      '',
    ])
    const json = await secret('check', '-c', file, '--json')
    expect(json.code).toBe(1)
    expect(JSON.parse(json.stdout)).toMatchObject({
      ok: false,
      result: { isCompared: true, secrets: [{ of: 'role app', stored: 'differs' }, {}, {}, {}, {}] },
    })
    for (const text of [result.stdout, json.stdout]) expect(text).not.toMatch(/horse|changeme/)
  })

  test('an MD5 hash: is a problem, since new rules refuse it', async () => {
    await writeSecret('app', 'correct horse')
    await server.query('postgres', `set password_encryption = md5; create role app password 'correct horse'`)
    const result = await secret(
      'check',
      '-c',
      await hostFile([`[roles.app]\npassword = { file = "${dir}/app" }`]),
    )
    expect(result.code).toBe(1)
    expect(result.stdout).toContain('the server has it as MD5')
  })

  test('a role that is not made yet: is no problem of its secret', async () => {
    await writeSecret('app', 'correct horse')
    const result = await secret(
      'check',
      '-c',
      await hostFile([`[roles.app]\npassword = { file = "${dir}/app" }`]),
    )
    expect([result.code, result.stdout]).toEqual([
      0,
      `  role app  file "${dir}/app"  0400 ${me}  the server has no such role yet\n1 secret, 0 with a problem\n`,
    ])
  })

  test('no server: the files are checked, and it says what was not', async () => {
    await writeSecret('app', 'correct horse')
    const header = server.header.replace(/data_dir = .*/, `data_dir = "${dir}/nothing"`)
    const file = join(dir, 'host.toml')
    await writeFile(file, `${header}[roles.app]\npassword = { file = "${dir}/app" }\n`)
    const result = await secret('check', '-c', file)
    expect([result.code, result.stdout]).toEqual([
      0,
      `  role app  file "${dir}/app"  0400 ${me}\nno server answers: what it has was not compared\n1 secret, 0 with a problem\n`,
    ])
  })

  test.runIf(isRoot)('a user who may not read it: the file and who is asking are named', async () => {
    await writeSecret('app', 'correct horse')
    const header = server.header.replace(/data_dir = .*/, `data_dir = "${dir}/nothing"`)
    const file = join(dir, 'host.toml')
    await writeFile(file, `${header}[roles.app]\npassword = { file = "${dir}/app" }\n`)
    const result = await runScript(['secret', 'check', '-c', file], { uid: userId('nobody').uid })
    expect(result.code).toBe(1)
    expect(result.stdout).toContain(`secret file "${dir}/app" cannot be read by user "nobody"`)
    expect(result.stdout).toContain('Run this as the owner of the file')
  })
})

describe('secret rotate', () => {
  test('the server and the file: change together, and nothing of it is printed or logged', async () => {
    const file = await appWith('correct horse', 0o440)
    await chown(join(dir, 'app'), ...ids())
    const logged = await logFrom()
    const result = await secret('rotate', 'app', '-c', file)
    expect(result).toEqual({
      code: 0,
      signal: null,
      stdout: `role app has a new secret, and so has ${dir}/app\n`,
      stderr: '',
    })
    const text = (await readFile(join(dir, 'app'), 'utf8')).trimEnd()
    expect(text).toMatch(/^[A-Za-z0-9]{32}$/)
    expect(await serverHas(text)).toBe(true)
    const { mode, uid, gid } = await stat(join(dir, 'app'))
    expect([mode & 0o777, uid, gid]).toEqual([0o440, ...ids()])
    expect((await readdir(dir)).toSorted()).toEqual(['app', 'host.toml'])
    const log = await logged()
    expect(log).toContain('statement: begin')
    expect(log).not.toContain(text)
    expect(log).not.toMatch(/SCRAM-SHA-256\$\d/)
    expect((await secret('check', '-c', file)).code).toBe(0)
  })

  test('hostile role name: rotated', async () => {
    const name = `a"b 'c' :verifier`
    await writeSecret('odd', 'correct horse')
    await server.query('postgres', `create role ${ident(name)}`)
    const file = await hostFile([`[roles.${JSON.stringify(name)}]\npassword = { file = "${dir}/odd" }`])
    const result = await secret('rotate', name, '-c', file)
    expect([result.code, result.stderr]).toEqual([0, ''])
    expect(await serverHas((await readFile(join(dir, 'odd'), 'utf8')).trimEnd(), name)).toBe(true)
    await server.query('postgres', `drop role ${ident(name)}`)
  })

  test('--plan: says what it would do and does nothing', async () => {
    const file = await appWith('correct horse')
    const result = await secret('rotate', 'app', '-c', file, '--plan')
    expect([result.code, result.stdout]).toEqual([
      0,
      `would give role app a new secret and write it to ${dir}/app\n`,
    ])
    expect(await readFile(join(dir, 'app'), 'utf8')).toBe('correct horse\n')
    expect(await serverHas('correct horse')).toBe(true)
  })

  test('a file behind a link: the file is replaced, the link stays', async () => {
    const file = await appWith('correct horse')
    await mkdir(join(dir, 'real'))
    await writeFile(join(dir, 'real/app'), 'correct horse\n', { mode: 0o400 })
    await rm(join(dir, 'app'))
    await symlink('real/app', join(dir, 'app'))
    expect((await secret('rotate', 'app', '-c', file)).code).toBe(0)
    expect((await stat(join(dir, 'real/app'))).isFile()).toBe(true)
    expect(await serverHas((await readFile(join(dir, 'app'), 'utf8')).trimEnd())).toBe(true)
    expect(await readdir(join(dir, 'real'))).toEqual(['app'])
  })

  test.each([
    ['nobody', '', 'the host file names no role nobody', 'It names: app, env, other.'],
    [
      'env',
      '',
      'the password of role env is not in a file',
      'Only { file = ... } can be rotated here; change others where they are kept, then run: howdah provision apply',
    ],
    [
      'app',
      'create role app',
      'secret file "DIR/app" is also for role other',
      'Give each a file of its own.',
    ],
  ])('%s, which cannot be rotated: usage, and nothing is changed', async (role, sql, message, hint) => {
    await writeSecret('app', 'correct horse')
    if (sql !== '') await server.query('postgres', sql)
    const file = await hostFile([
      `[roles.app]\npassword = { file = "${dir}/app" }`,
      `[roles.env]\npassword = { env = "X" }`,
      `[roles.other]\npassword = { file = "${dir}/app" }`,
    ])
    const result = await secret('rotate', role, '-c', file)
    expect(result).toEqual({
      code: 2,
      signal: null,
      stdout: '',
      stderr: `secret: error [usage] ${message.replace('DIR', dir)}\nsecret: hint: ${hint}\n`,
    })
    expect(await readFile(join(dir, 'app'), 'utf8')).toBe('correct horse\n')
  })

  test('a role that the server does not have: nothing is changed', async () => {
    await writeSecret('app', 'correct horse')
    const result = await secret(
      'rotate',
      'app',
      '-c',
      await hostFile([`[roles.app]\npassword = { file = "${dir}/app" }`]),
    )
    expect([result.code, result.stderr]).toEqual([
      2,
      `secret: error [usage] ${server.cluster.label} has no role app\nsecret: hint: Make it with: howdah provision apply\n`,
    ])
    expect((await readdir(dir)).toSorted()).toEqual(['app', 'host.toml'])
  })

  test('a statement that the server refuses: the file stays as it was', async () => {
    const file = await appWith('correct horse')
    await server.query('postgres', 'alter role postgres set default_transaction_read_only = on')
    const result = await secret('rotate', 'app', '-c', file)
    await server.withClient('postgres', async (client) => {
      await client.query('set default_transaction_read_only = off')
      await client.query('alter role postgres reset all')
    })
    expect(result).toEqual({
      code: 32,
      signal: null,
      stdout: '',
      stderr:
        'secret: error [server-failed] cannot alter role app: cannot execute ALTER ROLE in a read-only transaction\n' +
        'secret: hint: Look at what is left to do: howdah provision plan\n',
    })
    expect(await readFile(join(dir, 'app'), 'utf8')).toBe('correct horse\n')
    expect((await readdir(dir)).toSorted()).toEqual(['app', 'host.toml'])
    expect(await serverHas('correct horse')).toBe(true)
  })

  test('killed before the server has the new secret: nothing shows in pg_stat_activity, check says so, the next run undoes and rotates', async () => {
    const file = await appWith('correct horse')
    await server.withClient('postgres', async (client) => {
      await client.query('begin; alter role app connection limit 5') // rotate waits for this row
      await killedWhen(file, async () => {
        const rows = await server.query(
          'postgres',
          `select from pg_stat_activity where wait_event_type = 'Lock'`,
        )
        return rows.length > 0
      })
      const seen = await server.query('postgres', 'select query from pg_stat_activity')
      expect(JSON.stringify(seen)).not.toMatch(/SCRAM-SHA-256/)
      await client.query('rollback')
    })
    await quiet()
    expect((await readdir(dir)).toSorted()).toEqual(['app', 'app.new', 'host.toml'])
    expect(await serverHas('correct horse')).toBe(true)
    const check = await secret('check', '-c', file)
    expect([check.code, check.stdout]).toEqual([
      1,
      `! role app  file "${dir}/app"  0400 ${me}  a rotation was interrupted\n    End it with: howdah secret rotate app\n1 secret, 1 with a problem\n`,
    ])
    const result = await secret('rotate', 'app', '-c', file)
    expect([result.code, result.stdout]).toEqual([0, `role app has a new secret, and so has ${dir}/app\n`])
    await assertInStep()
  })

  test('killed after the server has the new secret: the next run gives the file the same one', async () => {
    const file = await appWith('correct horse')
    // A commit that waits for a standby that does not exist is through, but says so to nobody.
    await setting('synchronous_standby_names', 'nobody')
    await killedWhen(file, async () => {
      const rows = await server.query('postgres', `select from pg_stat_activity where wait_event = 'SyncRep'`)
      return rows.length > 0
    })
    await setting('synchronous_standby_names', '')
    await quiet()
    const pending = (await readFile(join(dir, 'app.new'), 'utf8')).trimEnd()
    expect(await serverHas(pending)).toBe(true)
    expect(await readFile(join(dir, 'app'), 'utf8')).toBe('correct horse\n')
    expect((await secret('check', '-c', file)).stdout).toContain('a rotation was interrupted')
    const plan = await secret('rotate', 'app', '-c', file, '--plan')
    expect(plan.stdout).toBe(
      `an earlier rotation was interrupted: would end or undo it first; would give role app a new secret and write it to ${dir}/app\n`,
    )
    const result = await secret('rotate', 'app', '-c', file)
    expect([result.code, result.stdout]).toEqual([
      0,
      `an earlier rotation of role app was interrupted: ${dir}/app now has the secret that the server has\n`,
    ])
    expect(await readFile(join(dir, 'app'), 'utf8')).toBe(`${pending}\n`)
    await assertInStep()
  })

  test.each([
    ['the beginning of a secret', 'abc'],
    ['nothing', ''],
    ['a whole secret that the server never got', `${'x'.repeat(32)}\n`],
  ])('FILE.new holds %s: it is thrown away', async (_, left) => {
    const file = await appWith('correct horse')
    await writeFile(join(dir, 'app.new'), left)
    expect((await secret('rotate', 'app', '-c', file)).stdout).toBe(
      `role app has a new secret, and so has ${dir}/app\n`,
    )
    await assertInStep()
  })

  test('nobody may read verifiers: the secret of an interrupted run is given to the server again', async () => {
    const file = await appWith('correct horse')
    const left = 'x'.repeat(32)
    await writeSecret('app.new', left)
    await server.query('postgres', 'create role other createrole; alter role postgres set role = other')
    const result = await secret('rotate', 'app', '-c', file)
    await server.query('postgres', 'set role none; alter role postgres reset all')
    expect([result.code, result.stderr]).toEqual([0, ''])
    expect(result.stdout).toContain('was interrupted')
    expect(await readFile(join(dir, 'app'), 'utf8')).toBe(`${left}\n`)
    await assertInStep()
  })

  test('FILE.new is a link that somebody made: it goes, and what it points to stays', async () => {
    const file = await appWith('correct horse')
    await writeFile(join(dir, 'victim'), `${'x'.repeat(32)}\n`)
    await symlink(join(dir, 'victim'), join(dir, 'app.new'))
    await server.query('postgres', `alter role app password ${literal(await makeVerifier('x'.repeat(32)))}`)
    expect((await secret('rotate', 'app', '-c', file)).code).toBe(0)
    expect(await readFile(join(dir, 'victim'), 'utf8')).toBe(`${'x'.repeat(32)}\n`)
    await rm(join(dir, 'victim'))
    await assertInStep()
  })

  test('killed at any moment: a run after it brings the two in step', async () => {
    const file = await appWith('correct horse')
    for (let round = 0; round < 5; round += 1) {
      const child = spawn(process.execPath, [join(ROOT, 'scripts/secret.ts'), 'rotate', 'app', '-c', file])
      await Promise.race([sleep(120 + round * 60), once(child, 'close')])
      child.kill('SIGKILL')
      if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
      await quiet()
      const result = await secret('rotate', 'app', '-c', file)
      expect([result.code, result.stderr]).toEqual([0, ''])
      await assertInStep()
    }
  })

  test('two at once: one waits its turn or says who has it, and the two stay in step', async () => {
    const file = await appWith('correct horse')
    const results = await Promise.all([1, 2, 3].map(() => secret('rotate', 'app', '-c', file)))
    expect(results.filter(({ code }) => code === 0).length).toBeGreaterThan(0)
    expect(results.every(({ code }) => code === 0 || code === 20)).toBe(true)
    await assertInStep()
  })

  test.runIf(isRoot)('neither root nor the owner of the file: who is needed is said', async () => {
    await writeSecret('app', 'correct horse', 0o444)
    await server.query('postgres', 'create role app')
    const file = await hostFile([`[roles.app]\npassword = { file = "${dir}/app" }`])
    const result = await runScript(['secret', 'rotate', 'app', '-c', file], { uid: userId('postgres').uid })
    expect([result.code, result.stderr]).toEqual([
      13,
      `secret: error [not-permitted] secret file "${dir}/app" belongs to user "root"\nsecret: hint: Run this as root.\n`,
    ])
  })
})

async function hostFile(...parts: (string | string[])[]): Promise<string> {
  const path = join(dir, 'host.toml')
  await writeFile(path, `${server.header}${parts.flat().join('\n')}\n`)
  return path
}

async function writeSecret(name: string, text: string, mode = 0o400): Promise<void> {
  await writeFile(join(dir, name), `${text}\n`)
  await chmod(join(dir, name), mode)
}

/** Role app with a password, its file, and a host file that says so. */
async function appWith(password: string, mode = 0o400): Promise<string> {
  await writeSecret('app', password, mode)
  await server.query('postgres', `create role app password ${literal(await makeVerifier(password))}`)
  return hostFile([`[roles.app]\npassword = { file = "${dir}/app" }`])
}

async function serverHas(password: string, name = 'app'): Promise<boolean> {
  const rows = await server.query<{ stored: string }>(
    'postgres',
    'select rolpassword as stored from pg_authid where rolname = $1',
    [name],
  )
  return matchesVerifier(password, rows[0]!.stored, name)
}

/** The server has what the file has, and nothing is left over. */
async function assertInStep(): Promise<void> {
  const text = (await readFile(join(dir, 'app'), 'utf8')).trimEnd()
  expect(text).toMatch(/^[A-Za-z0-9]{32}$/)
  expect(await serverHas(text)).toBe(true)
  expect((await readdir(dir)).toSorted()).toEqual(['app', 'host.toml'])
  expect((await stat(join(dir, 'app'))).mode & 0o777).toBe(0o400)
}

/** Runs a rotation of role app and kills it with SIGKILL when a condition holds. */
async function killedWhen(file: string, condition: () => Promise<boolean>): Promise<void> {
  const child = spawn(process.execPath, [join(ROOT, 'scripts/secret.ts'), 'rotate', 'app', '-c', file], {
    stdio: 'ignore',
  })
  const closed = once(child, 'close')
  for (const deadline = Date.now() + 20_000; !(await condition()); await sleep(5)) {
    if (Date.now() > deadline || child.exitCode !== null) throw new Error('the moment never came')
  }
  child.kill('SIGKILL')
  await closed
}

/** Waits until sessions of killed programs are gone. */
async function quiet(): Promise<void> {
  for (;;) {
    const rows = await server.query(
      'postgres',
      `select from pg_stat_activity where application_name like 'howdah%' and pid <> pg_backend_pid()`,
    )
    if (rows.length === 0) return
    await sleep(10)
  }
}

async function setting(name: string, value: string): Promise<void> {
  // Waits for nobody itself: ALTER SYSTEM writes no WAL.
  await server.query('postgres', `alter system set ${name} = ${literal(value)}`)
  await server.query('postgres', 'select pg_reload_conf()')
  for (;;) {
    const rows = await server.query<{ value: string }>(
      'postgres',
      `select current_setting('${name}') as value`,
    )
    if (rows[0]!.value === value) return
    await sleep(10)
  }
}

async function logFrom(): Promise<() => Promise<string>> {
  const read = () => readFile(join(server.cluster.socketDir, 'server.log'), 'utf8')
  const { length } = await read()
  return async () => (await read()).slice(length)
}

/** Who is to own the file in a test: somebody else where that is possible. */
function ids(): [number, number] {
  if (!isRoot) return [process.getuid!(), process.getgid!()]
  const { uid, gid } = userId('nobody')
  return [uid, gid]
}
