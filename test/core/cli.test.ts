import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ended, saidBy } from '../support/code.ts'
import { ROOT } from '../support/script.ts'

const SCRIPT = `
  import { setTimeout as sleep } from 'node:timers/promises'
  import { main } from '${ROOT}/scripts/core/cli.ts'
  import { Fail } from '${ROOT}/scripts/core/fail.ts'
  import { interrupted } from '${ROOT}/scripts/core/interrupt.ts'
  import { log } from '${ROOT}/scripts/core/log.ts'

  const hold = setInterval(() => {}, 1000)
  await main({
    name: 'tame',
    summary: 'tames elephants',
    example: 'howdah tame show jumbo',
    verbs: [
      {
        name: 'show',
        summary: 'says what it was called with',
        args: ['<name>', '[more...]'],
        options: [
          { flags: '--depth <n>', help: 'how deep', choices: ['1', '2'], default: '1' },
          { flags: '--with-trunk', help: 'all of it' },
        ],
        common: ['file', 'plan', 'yes', 'allow', 'only'],
        fails: ['lock-held', 'secret'],
        run: async (call) => ({ text: JSON.stringify({ ...call, allow: [...call.allow] }), result: { got: call.args } }),
      },
      { name: 'check', summary: 'says no', run: async () => ({ text: 'it is not', result: [1], ok: false }) },
      {
        name: 'fail',
        summary: 'fails',
        args: ['[how]'],
        run: async ({ args: [how] }) => {
          if (how === 'bug') throw new TypeError('undefined is not an elephant')
          if (how === 'late') setTimeout(() => { throw new Error('nobody waits for this') }, 5)
          if (how === 'promise') void Promise.reject(new Error('nobody waits for this'))
          if (how) await sleep(60_000)
          throw new Fail('secret', 'cannot ask s3://key:hunter2@store', { hint: 'Ask s3://key:hunter2@store again.' })
        },
      },
      {
        name: 'wait',
        summary: 'waits',
        args: ['[how]'],
        run: async ({ args: [how] }) => {
          process.stdout.write('waiting\\n')
          if (how === 'deaf') await sleep(60_000)
          else if (how === 'done') await sleep(60_000, undefined, { signal: interrupted }).catch(() => {})
          else await sleep(60_000, undefined, { signal: interrupted }).finally(() => log('info', 'cleared up'))
          return { text: 'never said', result: null }
        },
      },
      { name: 'flood', summary: 'says much', run: async () => ({ text: 'x\\n'.repeat(500_000), result: 1 }) },
    ],
  }).finally(() => clearInterval(hold))
`

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-cli-'))
  await writeFile(join(dir, 'tame.ts'), SCRIPT)
})
afterAll(() => rm(dir, { recursive: true }))

function start(args: readonly string[]): ChildProcess {
  const env = { ...process.env, NO_COLOR: '1', NODE_COMPILE_CACHE: join(ROOT, '.cache') }
  const child = spawn(process.execPath, [join(dir, 'tame.ts'), ...args], { env })
  child.stdin.end()
  return child
}

const tame = (...args: string[]) => ended(start(args))

describe('the command line', () => {
  test('a verb with everything: gets it all', async () => {
    const words =
      'show jumbo --depth 2 roles.a.login=true -n --yes -c h.toml b c --only roles --with-trunk host.name=x=y'
    const { code, stdout } = await tame(...words.split(' '), '--allow', 'fire, flood,', 'host.name=y z')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      args: ['jumbo', 'b', 'c'],
      options: { depth: '2', withTrunk: true },
      file: 'h.toml',
      overrides: ['roles.a.login=true', 'host.name=x=y', 'host.name=y z'],
      planOnly: true,
      yes: true,
      allow: ['fire', 'flood'],
      only: ['roles'],
      json: false,
    })
  })

  test('a verb with nothing: defaults', async () => {
    expect(JSON.parse((await tame('show', 'jumbo')).stdout)).toEqual({
      args: ['jumbo'],
      options: { depth: '1', config: '/etc/howdah/host.toml' },
      file: '/etc/howdah/host.toml',
      overrides: [],
      planOnly: false,
      yes: false,
      allow: [],
      json: false,
    })
  })

  test('what comes after --: is a value, even if it looks like an override or an option', async () => {
    const { stdout } = await tame('show', 'jumbo', 'host.name=x', '--', 'a.b=c', '--json')
    expect(JSON.parse(stdout)).toMatchObject({
      args: ['jumbo', 'a.b=c', '--json'],
      overrides: ['host.name=x'],
      json: false,
    })
  })

  test.each([
    [[], 'a verb is missing: show, check, fail, wait, flood', 'Run: howdah tame --help'],
    [['shwo'], "unknown command 'shwo'", 'Did you mean show?'],
    [['show'], "missing required argument 'name'", 'Run the same command with --help.'],
    [['show', 'a', '--dpeth', '1'], "unknown option '--dpeth'", 'Did you mean --depth?'],
    [['show', 'a', '--zzzzz'], "unknown option '--zzzzz'", 'Run the same command with --help.'],
    [['show', 'a', '--depth'], "option '--depth <n>' argument missing", 'Run the same command with --help.'],
    [
      ['show', 'a', '--depth', '3'],
      "option '--depth <n>' argument '3' is invalid. Allowed choices are 1, 2.",
      'Run the same command with --help.',
    ],
    [
      ['check', 'a'],
      "too many arguments for 'check'. Expected 0 arguments but got 1: a.",
      'Run the same command with --help.',
    ],
    [['check', '--yes'], "unknown option '--yes'", 'Run the same command with --help.'],
  ])('%j: usage: one line, a hint, 2', async (args, message, hint) => {
    expect(await tame(...args)).toEqual({
      code: 2,
      signal: null,
      stdout: '',
      stderr: `tame: error [usage] ${message}\ntame: hint: ${hint}\n`,
    })
  })

  test('--help of a verb: its options, its exit codes in order; the other verbs not', async () => {
    const { code, stdout, stderr } = await tame('show', '--help')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain('--depth <n>          how deep (choices: "1", "2", default: "1")')
    expect(stdout.split('Exit codes:\n')[1]).toBe(
      [
        '  0   done',
        '  1   the check says no',
        '  2   the command line is wrong',
        '  12  a secret cannot be had, or is no secret at all',
        '  20  another run holds the same thing',
        '  70  should not happen: please report it',
        '  130 ended by a signal',
        '',
      ].join('\n'),
    )
  })

  test('--help of the script: its verbs, all exit codes, and a command that works when pasted', async () => {
    const { code, stdout } = await tame('--help')
    expect(code).toBe(0)
    expect(stdout).toMatch(/^Usage: tame .*\n\ntames elephants\n/)
    expect(stdout).toMatch(/^ {2}check \[options\] +says no$/m)
    expect(stdout).toMatch(/^ {2}12 {2}a secret/m)
    expect(stdout).toMatch(/Example:\n {2}howdah tame show jumbo\n$/)
  })
})

describe('what a script ends with', () => {
  test('a check that says no: its text, and 1', async () => {
    expect(await tame('check')).toMatchObject({ code: 1, stdout: 'it is not\n', stderr: '' })
  })

  test('a failure: one line, a hint, its number; URLs are masked and nothing else is printed', async () => {
    expect(await tame('fail')).toMatchObject({
      code: 12,
      stdout: '',
      stderr:
        'tame: error [secret] cannot ask s3://key:***@store\ntame: hint: Ask s3://key:***@store again.\n',
    })
  })

  test.each(['bug', 'late', 'promise'])('a bug (%s): its stack, and 70, never 1', async (how) => {
    const { code, stdout, stderr } = await tame('fail', how)
    expect({ code, stdout }).toEqual({ code: 70, stdout: '' })
    expect(stderr).toMatch(
      /^tame: error \[bug\] .*\ntame: hint: Please report it, with these lines\.\n\w*Error: .*\n +at /,
    )
  })

  test('a reader that has seen enough: no stack', async () => {
    const child = start(['flood'])
    child.stdout!.once('data', () => child.stdout!.destroy())
    expect(await ended(child)).toMatchObject({ code: 0, stderr: '' })
  })
})

describe('--json: one document', () => {
  test.each([
    ['done', ['show', 'jumbo', '--json'], 0, { verb: 'show', ok: true, result: { got: ['jumbo'] } }],
    [
      'before the verb',
      ['--json', 'show', 'jumbo'],
      0,
      { verb: 'show', ok: true, result: { got: ['jumbo'] } },
    ],
    ['a check says no', ['check', '--json'], 1, { verb: 'check', ok: false, result: [1] }],
    [
      'a failure',
      ['fail', '--json'],
      12,
      {
        verb: 'fail',
        ok: false,
        error: {
          code: 'secret',
          message: 'cannot ask s3://key:***@store',
          hint: 'Ask s3://key:***@store again.',
        },
      },
    ],
    [
      'usage',
      ['shwo', '--json'],
      2,
      {
        verb: '',
        ok: false,
        error: { code: 'usage', message: "unknown command 'shwo'", hint: 'Did you mean show?' },
      },
    ],
    [
      'a bug',
      ['fail', 'bug', '--json'],
      70,
      {
        verb: 'fail',
        ok: false,
        error: {
          code: 'bug',
          message: 'undefined is not an elephant',
          hint: 'Please report it, with these lines.',
        },
      },
    ],
  ])('%s', async (_, args, code, document) => {
    const result = await tame(...args)
    expect(result.code).toBe(code)
    expect(JSON.parse(result.stdout)).toEqual({ format: 1, script: 'tame', ...document })
    expect(result.stdout.split('\n')).toHaveLength(2)
  })
})

describe('a signal', () => {
  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    '%s: what waits is ended, clears up, and the exit code is 130',
    async (signal) => {
      const child = start(['wait'])
      await saidBy(child, 'waiting\n')
      child.kill(signal)
      expect(await ended(child)).toEqual({
        code: 130,
        signal: null,
        stdout: '',
        stderr: `cleared up\ntame: error [interrupted] ended by ${signal}\ntame: hint: Run the same command again to go on.\n`,
      })
    },
  )

  test('a verb that ends well although it was told to end: is still 130, since it may have done less', async () => {
    const child = start(['wait', 'done'])
    await saidBy(child, 'waiting\n')
    child.kill('SIGINT')
    expect(await ended(child)).toMatchObject({ code: 130, stdout: '' })
  })

  test('a second one: ends at once what did not listen to the first', async () => {
    const child = start(['wait', 'deaf'])
    await saidBy(child, 'waiting\n')
    child.kill('SIGINT')
    const timer = setInterval(() => child.kill('SIGINT'), 50)
    expect(await ended(child)).toMatchObject({ code: null, signal: 'SIGINT' })
    clearInterval(timer)
  })
})
