import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { run } from '../core/exec.ts'
import { makeFolder, readTextIfAny, writeFileAtomic } from '../core/file.ts'
import { loadFile } from './install-verb.ts'
import { wantedUnits } from './install.ts'
import { findUnits } from './systemd.ts'
import { findTmpfiles } from './tmpfiles.ts'
import { ownerOf, pathOf } from './unit-diff.ts'

/** `schedule render` */
export const renderVerb: Verb = {
  name: 'render',
  summary: 'print the units of the host file; needs neither root nor systemd',
  options: [{ flags: '--out <dir>', help: 'write them into this folder' }],
  common: ['file'],
  fails: ['host-file', 'file-unreadable'],
  run: render,
}

/** `schedule diff` */
export const diffVerb: Verb = {
  name: 'diff',
  summary: 'compare the units that are installed with those of the host file; exit 1 when they differ',
  common: ['file'],
  fails: ['host-file', 'file-unreadable', 'command-failed'],
  run: diff,
}

async function render(call: Call): Promise<Outcome> {
  const units = await wantedUnits(await loadFile(call))
  const { out } = call.options
  if (typeof out !== 'string') {
    const text = units.map(({ name, content }) => `# ${name}\n${content}`).join('\n')
    return { text: text === '' ? 'nothing is scheduled' : text.trimEnd(), result: { units } }
  }
  const folder = resolve(out)
  await makeFolder(folder, { mode: 0o755 })
  for (const { name, content } of units) await writeFileAtomic(join(folder, name), content, { mode: 0o644 })
  const paths = units.map(({ name }) => join(folder, name))
  return { text: paths.length === 0 ? 'nothing is scheduled' : paths.join('\n'), result: { paths } }
}

interface Difference {
  readonly name: string
  readonly installed: string | undefined
  readonly rendered: string | undefined
}

async function diff(call: Call): Promise<Outcome> {
  const loaded = await loadFile(call)
  const wanted = await wantedUnits(loaded)
  const found = [...(await findUnits([])), ...(await findTmpfiles())]
  const stale = found.filter(
    (unit) => ownerOf(unit) === resolve(loaded.path) && wanted.every(({ name }) => name !== unit.name),
  )
  const all: Difference[] = stale.map(({ name, content }) => ({
    name,
    installed: content,
    rendered: undefined,
  }))
  for (const { name, content } of wanted) {
    const installed = await readTextIfAny(pathOf(name))
    if (installed !== content) all.push({ name, installed, rendered: content })
  }
  const texts: string[] = []
  for (const difference of all) texts.push(await unified(difference))
  return {
    text: texts.length === 0 ? 'no difference' : texts.join('\n'),
    result: {
      differences: all.map(({ name, installed, rendered }) => ({
        name,
        installed: installed ?? null,
        rendered: rendered ?? null,
      })),
    },
    ok: texts.length === 0,
  }
}

async function unified({ name, installed, rendered }: Difference): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'howdah-diff-'))
  try {
    const [before, after] = [join(folder, 'installed'), join(folder, 'rendered')]
    await writeFile(before, installed ?? '')
    await writeFile(after, rendered ?? '')
    const labels = [installed, rendered].map((text) => (text === undefined ? '/dev/null' : name))
    const { stdout } = await run(
      [
        'diff',
        '-u',
        '--label',
        `${labels[0]} (installed)`,
        '--label',
        `${labels[1]} (rendered)`,
        before,
        after,
      ],
      { okCodes: [0, 1] },
    )
    return stdout.trimEnd()
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
