import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { flock, input, output, run, supervise } from '../../scripts/core/exec.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { ended, runCode, saidBy, startCode } from '../support/code.ts'

const isRoot = process.getuid?.() === 0

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-exec-'))
})
afterAll(() => rm(dir, { recursive: true }))

const sh = (script: string, ...args: string[]) => ['sh', '-c', script, 'sh', ...args]

/** What a reader of a byte source gets: its text, whether it saw an end, and what was thrown. */
async function readAll(source: AsyncIterable<Uint8Array>) {
  let text = ''
  let sawEnd = false
  let thrown: unknown
  try {
    for await (const chunk of source) text += Buffer.from(chunk).toString('utf8')
    sawEnd = true
  } catch (error) {
    thrown = error
  }
  return { text, sawEnd, thrown }
}

async function* chunks(...parts: readonly (string | Error)[]): AsyncGenerator<Buffer> {
  for (const part of parts) {
    if (part instanceof Error) throw part
    yield Buffer.from(part)
  }
}

async function isAlive(pid: number): Promise<boolean> {
  const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  return state !== undefined && !/\) Z /.test(state)
}

async function untilGone(pid: number): Promise<void> {
  while (await isAlive(pid)) await sleep(10)
}

describe('run', () => {
  // Everything that a shell, zx or a careless join could take for something else than a value.
  test.each([
    ['spaces', 'a  b '],
    ['an empty text', ''],
    ['quotes', `'"\``],
    ['a substitution', '$(id) `id` ${HOME} $HOME'],
    ['the end of a command', '; id; | id && id > /x'],
    ['a glob', '/*'],
    ['a backslash and a line break', 'a\\\nb\\'],
    ['a comment', '#x'],
    ['a history mark', '!!'],
    ['letters that are not ASCII', 'Ünï 😀'],
    ['a dash', '-n'],
    ['a tilde', '~root'],
  ])('%s: an argument arrives as it is', async (_, value) => {
    expect((await run(['printf', '%s.', value, value])).stdout).toBe(`${value}.${value}.`)
  })

  test('a NUL byte in an argument: is refused, not cut off', async () => {
    await expect(run(['printf', '%s', 'a\0b'])).rejects.toThrow('an argument of "printf" holds a NUL byte')
  })

  test('an input: is all that the program reads', async () => {
    expect((await run(['cat'], { input: 'one\ntwo' })).stdout).toBe('one\ntwo')
  })

  test('an input that the program does not read: its exit code counts, not the broken pipe', async () => {
    const input = 'x'.repeat(10_000_000)
    for (let round = 0; round < 5; round++) expect(await run(['true'], { input })).toMatchObject({ code: 0 })
  })

  test('no input: the program reads nothing, not the terminal of the caller', async () => {
    expect((await run(['cat'])).stdout).toBe('')
  })

  test('it fails: its last lines on standard error are the hint', async () => {
    const script = 'for i in $(seq 30); do echo "line $i" >&2; done; echo lost; exit 3'
    const thrown = await run(sh(script)).catch((error: unknown) => error)
    expect(thrown).toBeInstanceOf(Fail)
    expect(thrown).toMatchObject({ code: 'command-failed', message: 'sh ended with exit code 3' })
    expect((thrown as Fail).hint).toMatch(/^line 19\n(.*\n)*line 30$/)
  })

  test('an exit code that is allowed: is a result', async () => {
    expect(await run(sh('echo out; echo err >&2; exit 3'), { okCodes: [0, 3] })).toEqual({
      code: 3,
      stdout: 'out\n',
      stderr: 'err\n',
    })
  })

  test('it is killed: that is said', async () => {
    await expect(run(sh('kill -9 $$'))).rejects.toMatchObject({
      code: 'command-failed',
      message: 'sh was ended by SIGKILL',
    })
  })

  test('it takes too long: it is ended', async () => {
    await expect(run(['sleep', '30'], { timeoutSeconds: 0.2 })).rejects.toMatchObject({
      code: 'command-failed',
      message: 'sleep was ended by SIGTERM',
    })
  })

  test('no such program: is not a failure of it, but of the host', async () => {
    await expect(run(['howdah-no-such-program'])).rejects.toMatchObject({
      code: 'not-permitted',
      message: 'program "howdah-no-such-program" is not installed',
    })
  })

  test('a signal: ends the program and is what is thrown', async () => {
    const controller = new AbortController()
    const pidFile = join(dir, 'pid')
    const running = run(sh('echo $$ >"$1"; exec sleep 30', pidFile), { signal: controller.signal })
    running.catch(() => {})
    while (!(await readFile(pidFile, 'utf8').catch(() => ''))) await sleep(10)
    controller.abort(new Fail('interrupted', 'enough'))
    await expect(running).rejects.toMatchObject({ code: 'interrupted', message: 'enough' })
    await untilGone(Number(await readFile(pidFile, 'utf8')))
  })

  test.runIf(isRoot)(
    'as another OS user: with the ids and home of that one, from the folder "/"',
    async () => {
      const { stdout } = await run(sh('id -un; id -gn; pwd; echo "$HOME"'), { as: 'nobody' })
      expect(stdout).toBe('nobody\nnogroup\n/\n/nonexistent\n')
    },
  )

  test.runIf(isRoot)('as another OS user: a program that is missing is said too', async () => {
    await expect(run(['howdah-no-such-program'], { as: 'nobody' })).rejects.toMatchObject({
      code: 'not-permitted',
      message: 'program "howdah-no-such-program" is not installed',
    })
  })
})

test.runIf(isRoot)('run: as an OS user that does not exist: is said', async () => {
  await expect(run(['true'], { as: 'howdah-nobody' })).rejects.toMatchObject({
    code: 'not-permitted',
    message:
      'cannot run true: runuser: user howdah-nobody does not exist or the user entry does not contain all the required fields',
  })
})

describe('environment', () => {
  const print = `
    import { output, run } from 'scripts/core/exec.ts'
    console.log((await run(['env'], { env: { OWN: 'yes' } })).stdout)
    for await (const chunk of output(['env'])) console.log(String(chunk))
  `

  test('PG* variables of the operator: do not reach a program', async () => {
    const { stdout, code } = await runCode(print, {
      env: { PGHOST: 'pg-secret', PGSERVICE: 'pg-secret', PGOPTIONS: 'pg-secret', PSQLRC: 'pg-secret' },
    })
    expect(code).toBe(0)
    expect(stdout).not.toContain('pg-secret')
    expect(stdout).toContain('OWN=yes')
    expect(stdout.match(/^PATH=/gm)).toHaveLength(2)
  })

  test('settings of zx in the environment: run nothing and change nothing', async () => {
    const { stdout, stderr, code } = await runCode(
      `import { run } from 'scripts/core/exec.ts'
       const { stdout } = await run(['sh', '-c', 'echo ok; ps -o sid= -o pgid= -p $$'])
       const [word, ids] = stdout.split('\\n')
       const own = (await run(['ps', '-o', 'pgid=', '-p', String(process.pid)])).stdout.trim()
       console.log(word, ids.trim().split(/ +/)[1] === own)
       await run(['howdah-local-program'], { okCodes: [7] }).catch((error) => console.log(error.code))`,
      {
        isGroup: true,
        env: {
          ZX_PREFIX: 'echo prefix;',
          ZX_POSTFIX: '; echo postfix',
          ZX_SHELL: '/bin/false',
          ZX_VERBOSE: 'true',
          ZX_CWD: '/nowhere',
          ZX_DETACHED: 'true',
          ZX_TIMEOUT: '1ms',
          ZX_PREFER_LOCAL: dir,
        },
      },
    )
    expect({ stdout, stderr, code }).toEqual({ stdout: 'ok true\nnot-permitted\n', stderr: '', code: 0 })
  })

  beforeAll(async () => {
    await writeFile(join(dir, 'howdah-local-program'), '#!/bin/sh\nexit 7\n', { mode: 0o755 })
  })
})

describe('output', () => {
  test('a program that is done: all bytes, then an end', async () => {
    let size = 0
    for await (const chunk of output(sh('head -c 3000000 /dev/zero; exit 0'))) size += chunk.length
    expect(size).toBe(3_000_000)
  })

  test.each([
    [
      'fails after all of its output',
      'echo half; echo reason >&2; exit 3',
      'sh ended with exit code 3',
      'reason',
    ],
    ['fails without a word', 'echo half; exit 1', 'sh ended with exit code 1', undefined],
    ['is killed', 'echo half; kill -9 $$', 'sh was ended by SIGKILL', undefined],
    [
      'closes its output and fails later',
      'echo half; exec >&-; sleep 0.2; exit 4',
      'sh ended with exit code 4',
      undefined,
    ],
  ])('a program that %s: its bytes, and never an end', async (_, script, message, hint) => {
    const { text, sawEnd, thrown } = await readAll(output(sh(script)))
    expect({ text, sawEnd }).toEqual({ text: 'half\n', sawEnd: false })
    expect(thrown).toBeInstanceOf(Fail)
    expect(thrown).toMatchObject({ code: 'command-failed', message, hint })
  })

  test.each([
    ['the first', 'false', 'cat', 'false ended with exit code 1'],
    ['the last', 'cat', 'false', 'false ended with exit code 1'],
    ['the first, killed', 'kill -9 $$', 'cat', 'was ended by SIGKILL'],
    ['the last, killed', 'echo x', 'kill -9 $$', 'was ended by SIGKILL'],
  ])('a pipeline of three where %s fails: never an end', async (_, first, last, message) => {
    const source = first === 'cat' ? chunks('x') : output(first === 'false' ? ['false'] : sh(first))
    const middle = output(['cat'], { input: source })
    const { sawEnd, thrown } = await readAll(
      output(/^(cat|false)$/.test(last) ? [last] : sh(last), { input: middle }),
    )
    expect(sawEnd).toBe(false)
    expect((thrown as Fail).message).toContain(message)
  })

  test.each(isRoot ? [undefined, 'nobody'] : [undefined])(
    'a program that is not installed, as user %s: is said, never an end',
    async (as) => {
      const { sawEnd, thrown } = await readAll(output(['howdah-no-such-program'], { as }))
      expect(sawEnd).toBe(false)
      expect(thrown).toBeInstanceOf(Fail)
      expect(thrown).toMatchObject({
        code: 'not-permitted',
        message: 'program "howdah-no-such-program" is not installed',
      })
    },
  )

  test('a reader that stops early: the program is ended, not left behind', async () => {
    let pid = 0
    for await (const chunk of output(sh('echo $$; exec yes'))) {
      pid = Number(String(chunk).split('\n')[0])
      break
    }
    expect(await isAlive(pid)).toBe(false)
  })

  test("a reader that fails: the program is ended, and the error is the reader's", async () => {
    let pid = 0
    const reading = async () => {
      for await (const chunk of output(sh('echo $$; exec yes'))) {
        pid = Number(String(chunk).split('\n')[0])
        throw new Error('the reader is full')
      }
    }
    await expect(reading()).rejects.toThrow('the reader is full')
    expect(await isAlive(pid)).toBe(false)
  })

  test('a signal while it runs: ends the program and is what is thrown', async () => {
    const controller = new AbortController()
    let pid = 0
    const reading = async () => {
      for await (const chunk of output(sh('echo $$; exec sleep 30'), { signal: controller.signal })) {
        pid = Number(String(chunk))
        controller.abort(new Fail('interrupted', 'enough'))
      }
    }
    await expect(reading()).rejects.toMatchObject({ code: 'interrupted', message: 'enough' })
    expect(await isAlive(pid)).toBe(false)
  })

  test('a signal while it runs, and it does not listen to SIGTERM: is gone when that is thrown', async () => {
    const controller = new AbortController()
    let pid = 0
    const reading = async () => {
      for await (const chunk of output(['bash', '-c', `trap '' TERM; echo $$; sleep 30`], {
        signal: controller.signal,
      })) {
        pid = Number(String(chunk))
        controller.abort(new Fail('interrupted', 'enough'))
      }
    }
    const begun = performance.now()
    await expect(reading()).rejects.toMatchObject({ code: 'interrupted', message: 'enough' })
    expect(await isAlive(pid)).toBe(false)
    expect(performance.now() - begun).toBeLessThan(20_000)
  })

  test('a signal that came before: nothing is started', async () => {
    const marker = join(dir, 'started')
    const signal = AbortSignal.abort(new Fail('interrupted', 'enough'))
    const { sawEnd, thrown } = await readAll(output(['touch', marker], { signal }))
    expect({ sawEnd, thrown }).toMatchObject({ sawEnd: false, thrown: { code: 'interrupted' } })
    await expect(readFile(marker)).rejects.toThrow('ENOENT')
  })

  test('a long story on standard error: its end is the hint, and it does not block the program', async () => {
    const { thrown } = await readAll(output(sh('seq 100000 >&2; exit 1')))
    expect((thrown as Fail).hint).toMatch(/99999\n100000$/)
    expect((thrown as Fail).hint!.length).toBeLessThan(4096)
  })
})

describe('a filter', () => {
  test('bytes go through it: more than any pipe holds, both ways at once', async () => {
    const block = Buffer.alloc(65_536, 'x')
    async function* source() {
      for (let count = 0; count < 100; count++) yield block
    }
    let size = 0
    for await (const chunk of output(['cat'], { input: source() })) size += chunk.length
    expect(size).toBe(6_553_600)
  })

  test("its input fails: it is ended by SIGTERM, never sees an end of its input, and the error is the input's", async () => {
    const told = join(dir, 'told')
    const filter = `trap 'echo term >"$1"; exit 0' TERM; echo ready >"$1"; while read -r line; do :; done; echo end >"$1"`
    const error = new Fail('store-unreachable', 'the store went away')
    async function* source() {
      yield Buffer.from('x\n')
      while ((await readFile(told, 'utf8').catch(() => '')) === '') await sleep(5)
      throw error
    }
    const { sawEnd, thrown } = await readAll(
      output(['bash', '-c', filter, 'bash', told], { input: source() }),
    )
    expect({ sawEnd, thrown }).toEqual({ sawEnd: false, thrown: error })
    expect(await readFile(told, 'utf8')).toBe('term\n')
  })

  test('its input fails and it does not listen to SIGTERM: it is killed', async () => {
    const source = chunks('x\n', new Error('input broke'))
    const { sawEnd, thrown } = await readAll(output(sh(`trap '' TERM; cat; sleep 30`), { input: source }))
    expect({ sawEnd, thrown }).toMatchObject({ sawEnd: false, thrown: { message: 'input broke' } })
  })

  test('it ends early with success: its input is stopped, and that is no error', async () => {
    let isClosed = false
    async function* endless() {
      try {
        for (;;) yield Buffer.alloc(65_536, 'x\n')
      } finally {
        isClosed = true
      }
    }
    const { text, sawEnd } = await readAll(output(['head', '-n', '1'], { input: endless() }))
    expect({ text, sawEnd, isClosed }).toEqual({ text: 'x\n', sawEnd: true, isClosed: true })
  })

  test('it ends early with a failure: its own reason, not the broken pipe', async () => {
    const { sawEnd, thrown } = await readAll(
      output(sh('exec <&-; echo "disk full" >&2; exit 5'), {
        input: chunks(...Array(50).fill('x'.repeat(65_536))),
      }),
    )
    expect(sawEnd).toBe(false)
    expect(thrown).toMatchObject({ code: 'command-failed', hint: 'disk full' })
  })

  test('input: gives what the program said', async () => {
    expect(await input(['sha256sum'], chunks('a', 'bc'))).toMatch(/^ba7816bf8f01cfea/)
  })

  test('input: an error of the source is thrown as it is', async () => {
    const error = new Error('source broke')
    await expect(input(['cat'], chunks('x', error))).rejects.toBe(error)
  })

  test('input: a program that fails although it read everything fails the whole', async () => {
    await expect(input(sh('cat >/dev/null; exit 9'), chunks('x'))).rejects.toMatchObject({
      message: 'sh ended with exit code 9',
    })
  })
})

describe('memory', () => {
  const measure = (bytes: number) =>
    runCode(`
      import { input, output } from 'scripts/core/exec.ts'
      import { setImmediate as pause } from 'node:timers/promises'
      const zeros = () => output(['head', '-c', '${bytes}', '/dev/zero'])
      let size = 0
      for await (const chunk of output(['cat'], { input: zeros() })) {
        size += chunk.length
        if (size % (1 << 20) < 65536) await pause()
      }
      console.log(size, await input(['wc', '-c'], zeros()))
      console.error(process.resourceUsage().maxRSS)
    `)

  test('1 GiB through a filter and into a program: costs no more memory than 1 MiB', async () => {
    const [small, big] = [await measure(1 << 20), await measure(1 << 30)]
    expect(small.stdout).toBe(`${1 << 20} ${1 << 20}\n\n`)
    expect(big.stdout).toBe(`${1 << 30} ${1 << 30}\n\n`)
    const growthKilobytes = Number(big.stderr) - Number(small.stderr)
    expect(growthKilobytes).toBeLessThan(96 * 1024)
  })
})

describe('flock', () => {
  test('a lock of one open file: another one of the same file does not get it until it is closed', async () => {
    const path = join(dir, 'flock')
    await using first = await open(path, 'a')
    const second = await open(path, 'a')
    expect(await flock(first.fd)).toBe(true)
    expect(await flock(second.fd)).toBe(false)
    await first.close()
    expect(await flock(second.fd)).toBe(true)
    await second.close()
  })

  test('a process that is killed by SIGKILL: its lock is free', async () => {
    const path = join(dir, 'flock-killed')
    const child = startCode(`
      import { open } from 'node:fs/promises'
      import { flock } from 'scripts/core/exec.ts'
      const file = await open(${JSON.stringify(path)}, 'a')
      console.log(await flock(file.fd))
      setInterval(() => file.fd, 1000)
    `)
    await saidBy(child, 'true')
    await using file = await open(path, 'a')
    expect(await flock(file.fd)).toBe(false)
    child.kill('SIGKILL')
    await ended(child)
    expect(await flock(file.fd)).toBe(true)
  })
})

test('output: source that uses its memory again for each piece: every byte reaches the program', async () => {
  const pieces = 400
  const size = 9000 // below what a pipe takes at once, so that some of it waits in this process
  async function* source() {
    const memory = Buffer.alloc(size)
    for (let piece = 0; piece < pieces; piece++) {
      memory.fill(piece)
      yield memory
    }
  }
  const slow = ['sh', '-c', 'sleep 0.2; exec cat']
  const found = Buffer.concat(await Array.fromAsync(output(slow, { input: source() })))
  const wanted = Buffer.concat(Array.from({ length: pieces }, (_, piece) => Buffer.alloc(size, piece)))
  expect(found.equals(wanted)).toBe(true)
})

test('output: pieces that are freed: whole until the next one is asked for, and gone then', async () => {
  const kept: Buffer[] = []
  let size = 0
  for await (const piece of output(['head', '-c', '5000000', '/dev/zero'], { frees: true })) {
    size += piece.length
    kept.push(piece)
  }
  expect(size).toBe(5_000_000)
  expect(kept.every(({ length }) => length === 0)).toBe(true)
})

describe('supervise', () => {
  const options = (onLine: (line: string) => void = () => {}) => ({ onLine, graceSeconds: 0.3 })

  test('what it writes: line by line, from both outputs, the last one without an end, too', async () => {
    const lines: string[] = []
    const script = 'echo a; echo b >&2; printf "c\\r\\nd"; exit 3'
    const how = await supervise(
      sh(script),
      options((line) => lines.push(line)),
    )
    expect(how).toEqual({ code: 3, signal: null })
    expect(lines.toSorted()).toEqual(['a', 'b', 'c', 'd'])
  })

  test('what it has left behind: is ended, and does not keep this waiting', async () => {
    const lines: string[] = []
    await supervise(
      sh('sleep 1000 & echo $!'),
      options((line) => lines.push(line)),
    )
    await expect.poll(() => readFile(`/proc/${lines[0]}/stat`, 'utf8').catch(() => ' Z ')).toContain(' Z ')
  })

  test('signal: it is told to end and may take its time; one that does not listen is killed', async () => {
    const listens = sh('trap "sleep 0.1; exit 7" TERM; while :; do sleep 0.02; done')
    const signal = () => AbortSignal.timeout(300)
    expect(await supervise(listens, { ...options(), signal: signal() })).toEqual({ code: 7, signal: null })
    const deaf = sh('trap "" TERM; while :; do sleep 0.02; done')
    expect(await supervise(deaf, { ...options(), signal: signal() })).toEqual({
      code: null,
      signal: 'SIGKILL',
    })
  })

  test('program that is not there: not-permitted', async () => {
    await expect(supervise(['/no/such/program'], options())).rejects.toMatchObject({ code: 'not-permitted' })
  })
})
