import { spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { exists } from '../../scripts/core/file.ts'
import { ended, runCode } from '../support/code.ts'
import { ROOT } from '../support/script.ts'

const SCRIPT = '/usr/bin/script'
const canMakeTerminal = await exists(SCRIPT)

const PROGRESS = `
  import { setTimeout as sleep } from 'node:timers/promises'
  import { beginProgress } from 'scripts/core/progress.ts'
  {
    using progress = beginProgress('restore', process.env.QUIET === '1')
    progress.show('120 MB of 2.3 GB')
    await sleep(250)
  }
  console.log('done')
`
const ASK = `
  import { askYes, canAsk } from 'scripts/core/ask.ts'
  console.log(String(canAsk() ? await askYes('Do it?') : 'nobody to ask'))
`

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'howdah-terminal-'))
  for (const [name, code] of Object.entries({ PROGRESS, ASK })) {
    await writeFile(join(dir, `${name}.ts`), code.replaceAll("'scripts/", `'${ROOT}/scripts/`))
  }
})
afterAll(() => rm(dir, { recursive: true }))

/** Runs a file on a terminal of its own, at which a text is typed. */
async function onTerminal(name: string, typed = '', env: Record<string, string> = {}): Promise<string> {
  const child = spawn(SCRIPT, ['-qec', `'${process.execPath}' '${join(dir, name)}.ts'`, '/dev/null'], {
    env: { ...process.env, NODE_COMPILE_CACHE: join(ROOT, '.cache'), ...env },
  })
  const result = ended(child)
  if (typed !== '') {
    child.stdout.on('data', (chunk: Buffer) => {
      if (String(chunk).includes('[y/N]')) child.stdin.write(typed)
    })
  }
  return (await result).stdout
}

test('progress: no terminal: is silent', async () => {
  expect(await runCode(PROGRESS)).toMatchObject({ stdout: 'done\n', stderr: '' })
})

test.runIf(canMakeTerminal)('progress: a terminal: one line, written over, and gone at the end', async () => {
  const text = (await onTerminal('PROGRESS')).replaceAll('\r\u001b[K', '<clear>')
  expect(text).toMatch(/^(<clear>restore: 120 MB of 2\.3 GB, 0\.\d\d s)+<clear>done\r\n$/)
})

test.runIf(canMakeTerminal)('progress: a terminal, but a document is asked for: is silent', async () => {
  expect(await onTerminal('PROGRESS', '', { QUIET: '1' })).toBe('done\r\n')
})

test('ask: no terminal: there is nobody to ask', async () => {
  expect(await runCode(ASK)).toMatchObject({ stdout: 'nobody to ask\n' })
})

test.runIf(canMakeTerminal).each([
  ['y', 'true'],
  ['YES', 'true'],
  ['n', 'false'],
  ['yesterday', 'false'],
])('ask: somebody answers %s: %s', async (typed, answer) => {
  expect(await onTerminal('ASK', `${typed}\r`)).toMatch(new RegExp(`Do it\\? \\[y/N\\] [^]*${answer}\\r\\n$`))
})

test.runIf(canMakeTerminal)('ask: just Enter: no', async () => {
  expect(await onTerminal('ASK', '\r')).toMatch(/false\r\n$/)
})
