import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { run } from '../../scripts/core/exec.ts'
import { bootUnitText } from '../../scripts/upgrade/boot-unit.ts'

const commandOf = (text: string) => /^ExecStart="[^"]*\/howdah" (.*)$/m.exec(text)?.[1]

test.each([
  ['/etc/howdah.toml', [], '"upgrade" "resume" "-c" "/etc/howdah.toml"'],
  [
    '/srv/a b/50%.toml',
    ['postgres.port=5433'],
    '"upgrade" "resume" "-c" "/srv/a b/50%%.toml" "postgres.port=5433"',
  ],
  [
    '/srv/$HOME/"x"\\y.toml',
    ['host.name=é $x'],
    String.raw`"upgrade" "resume" "-c" "/srv/$$HOME/\"x\"\\y.toml" "host.name=é $$x"`,
  ],
])('the unit that goes on after a crash of the machine, with %s', (file, overrides, words) => {
  expect(commandOf(bootUnitText(file, overrides))).toBe(words)
})

test('systemd takes it, where it is there to be asked', async ({ skip }) => {
  const { code } = await run(['sh', '-c', 'command -v systemd-analyze'], { okCodes: [0, 1, 127] })
  if (code !== 0) return skip()
  const dir = await mkdtemp(join(tmpdir(), 'howdah-test-'))
  try {
    const path = join(dir, 'howdah-upgrade-main.service')
    await writeFile(path, bootUnitText('/srv/a b/50%.toml', ['postgres.port=5433']))
    const done = await run(['systemd-analyze', 'verify', '--man=no', path], {
      okCodes: [0, 1],
      env: { SYSTEMD_LOG_LEVEL: 'warning' },
    })
    expect(done.stderr.split('\n').filter((line) => line.includes('howdah-upgrade-main'))).toEqual([])
  } finally {
    await rm(dir, { recursive: true })
  }
})
