import { readTextIfAny } from '../../core/file.ts'
import type { Kind } from '../kind.ts'

/** Whether a Debian package is installed. */
export type Package = 'installed' | 'missing'

const CREATE_MAIN = '/etc/postgresql-common/createcluster.d/howdah.conf'
const NO_MAIN_CLUSTER = `# Written by Howdah: a cluster is made when a host file names it, not when a package comes.
create_main_cluster = false
`

/**
 * Debian packages that the host file names, and the server of its major. Never removed.
 * Installing a server would make and start a cluster of its own accord (postgresql-common up to
 * 268 even beside other clusters), with other options than the host file's; so that is turned off first.
 */
export const packageKind: Kind<Package> = {
  name: 'package',

  wanted({ postgres }) {
    if (postgres.kind === 'remote') return new Map()
    const server = postgres.kind === 'debian' ? [`postgresql-${postgres.major}`] : []
    return new Map([...server, ...postgres.packages].map((name) => [name, 'installed']))
  },

  async actual({ host }) {
    const names = [...this.wanted(host, undefined as never).keys()]
    if (names.length === 0) return new Map()
    const installed = installedPackages((await readTextIfAny('/var/lib/dpkg/status')) ?? '')
    return new Map(names.map((name) => [name, installed.has(name) ? 'installed' : 'missing']))
  },

  change(name, wanted, actual) {
    if (actual === wanted) return undefined
    return {
      kind: this.name,
      name,
      action: 'create',
      line: 'install it',
      hazards: [],
      steps: [
        { run: 'write', path: CREATE_MAIN, content: NO_MAIN_CLUSTER, mode: 0o644, owner: 'root' },
        { run: 'exec', argv: ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', 'update', '-qq'] },
        {
          run: 'exec',
          argv: [
            'env',
            'DEBIAN_FRONTEND=noninteractive',
            'apt-get',
            'install',
            '-y',
            '-qq',
            '--no-install-recommends',
            name,
          ],
        },
      ],
    }
  },
}

/** Names of the installed packages in a dpkg status file; removed ones that left configuration behind are none. Pure. */
export function installedPackages(status: string): Set<string> {
  // Fields come in any order: essential packages have one between their name and their status.
  const field = (stanza: string, name: string) => new RegExp(`^${name}: (.+)$`, 'm').exec(stanza)?.[1] ?? ''
  const installed = status.split('\n\n').filter((stanza) => field(stanza, 'Status').endsWith(' installed'))
  return new Set(installed.map((stanza) => field(stanza, 'Package')))
}
