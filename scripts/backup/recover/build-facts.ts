import { machine } from 'node:os'
import { join } from 'node:path'
import { run } from '../../core/exec.ts'
import type { Physical } from '../manifest.ts'
import type { RestoreFinding } from '../restore-plan.ts'

/**
 * What the files of a cluster depend on, by the name of the setting that shows it: a server that was built
 * otherwise does not start from them (src/backend/access/transam/xlog.c, ReadControlFile).
 */
const BUILT: Readonly<Record<string, string>> = {
  block_size: 'blocks of',
  wal_block_size: 'WAL blocks of',
  segment_size: 'files of as many blocks as',
  max_identifier_length: 'names as long as',
  max_index_keys: 'index columns up to',
  integer_datetimes: 'integer times:',
}

/** The same byte order, word size and alignment: files of one are read by the others. */
const ALIKE = new Set(['x86_64', 'aarch64', 'ppc64le', 'riscv64', 'loongarch64', 'loong64'])

/** Bytes of a segment of WAL may be a power of two from 1 MB to 1 GB (src/include/access/xlog_internal.h). */
const SEGMENT = { min: 1024 ** 2, max: 1024 ** 3 }

type Facts = Pick<Physical, 'blockSize' | 'walSegmentSize' | 'build'>

/**
 * Whether programs can work with the files of a backup at all, before a byte of it is copied. Data
 * checksums, and WAL segments of whatever possible size, every build can do.
 */
export async function buildFindings(facts: Facts, bindir: string): Promise<RestoreFinding[]> {
  return compareBuilds(facts, await builtIn(bindir), machine())
}

/**
 * What differs in a way that matters. Pure.
 * @param here settings of the programs of this host, by name
 * @param host kind of this machine, such as `x86_64`
 */
export function compareBuilds(
  facts: Facts,
  here: Readonly<Record<string, string>>,
  host: string,
): RestoreFinding[] {
  const { blockSize, walSegmentSize: size, build = {} } = facts
  const findings: RestoreFinding[] = []
  const refuse = (text: string, hint = 'Restore it with programs that were built as the server was.') =>
    findings.push({ level: 'impossible', text, hint })
  for (const [name, value] of Object.entries({ ...build, block_size: String(blockSize) })) {
    const known = here[name]
    if (known === undefined || known === value) continue
    refuse(`the backup has ${BUILT[name]} ${value}, the programs of this host have ${known} (${name})`)
  }
  if (size < SEGMENT.min || size > SEGMENT.max || !Number.isInteger(Math.log2(size)))
    refuse(`the backup has WAL segments of ${size} bytes, which no server has`, 'Restore from another one.')
  const theirs = build['machine']
  if (theirs === undefined || kindOf(theirs) === kindOf(host)) return findings
  if (!ALIKE.has(theirs) || !ALIKE.has(host)) {
    refuse(
      `the backup is of a machine of kind ${theirs}, this one is ${host}`,
      'A dump can be restored here.',
    )
    return findings
  }
  const text = `the backup is of a machine of kind ${theirs}, this one is ${host}: check indexes with pg_amcheck, and reindex those of pg_trgm and of texts`
  return [...findings, { level: 'warning', text }]
}

/** Compilers and kernels call some machines by different names. */
function kindOf(name: string): string {
  return name
    .replace(/^powerpc64le$/, 'ppc64le')
    .replace(/^arm(v\d.*)?$/, 'arm')
    .replace(/^i[3-5]86$/, 'i686')
}

/** What the programs in a folder were built with; no server runs for it. */
async function builtIn(bindir: string): Promise<Record<string, string>> {
  const entries = await Promise.all(
    Object.keys(BUILT).map(async (name) => {
      // Any folder will do as data directory, as long as nobody else can put settings into it.
      const argv = [join(bindir, 'postgres'), '-C', name, '-D', bindir, '-c', 'config_file=/dev/null']
      return [name, (await run(argv, { env: { LC_ALL: 'C' } })).stdout.trim()] as const
    }),
  )
  return Object.fromEntries(entries)
}
