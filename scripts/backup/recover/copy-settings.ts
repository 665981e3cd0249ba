import { dirname, join } from 'node:path'
import { run } from '../../core/exec.ts'
import { Fail } from '../../core/fail.ts'
import { exists } from '../../core/file.ts'
import { log } from '../../core/log.ts'
import { parseConf } from '../../host/conf.ts'
import { copySocketDir, type Place } from './place.ts'
import { modestBuffers } from './settings.ts'

/**
 * What keeps a copy from doing what the cluster that it comes from does: answering its clients, archiving,
 * waiting for its standbys, running its jobs, writing into its logs; and from needing files that are
 * beside the data directory there. Pure.
 */
export function copySettings(dataDir: string, port: number): Record<string, string> {
  return {
    port: String(port),
    unix_socket_directories: copySocketDir(dataDir),
    unix_socket_group: '', // the owner of the copy may be in none
    listen_addresses: '',
    ssl: 'off', // without TCP there is none, but its files would have to be there
    hba_file: join(dataDir, 'pg_hba.conf'),
    ident_file: join(dataDir, 'pg_ident.conf'),
    archive_mode: 'off',
    archive_command: '',
    archive_library: '',
    restore_command: '',
    archive_cleanup_command: '',
    recovery_end_command: '',
    primary_conninfo: '',
    primary_slot_name: '',
    // Without its standbys every commit would wait for ever.
    synchronous_standby_names: '',
    // An absolute one is the log of the other cluster, which may be truncated by whoever comes second.
    log_directory: 'log',
    log_destination: 'stderr',
    // Its jobs, and the file that tells others where it is, are those of the other cluster.
    'cron.launch_active_jobs': 'off',
    external_pid_file: '',
    max_logical_replication_workers: '0',
    // Those that are reserved are for the other cluster.
    huge_pages: 'off',
  }
}

/** Libraries whose background workers call others, or do the jobs of the other cluster. */
const RUNNERS = new Set(['bdr', 'pg_net', 'pg_partman_bgw', 'pgl_ddl_deploy', 'pglogical', 'spock'])
/** Settings that name libraries: without one of them no server starts, or no session. */
const LIBRARIES = ['shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries']

/**
 * The same, as far as it depends on what the copy's files say and on this host: libraries that are not here,
 * and memory beside the cluster that it comes from.
 * @param data where its files are now, with {@link copySettings} in them
 * @throws {Fail} `plan-impossible` when the files name another data directory
 */
export async function copySettingsHere(
  data: string,
  blockSize: number,
  place: Place,
): Promise<Record<string, string>> {
  const ask = (name: string) => settingOf(name, data, place)
  const dataDir = await ask('data_directory')
  if (dataDir === undefined) return {}
  // Started, it would not be the copy that starts.
  if (dataDir !== data && dataDir !== place.dataDir) {
    throw new Fail(
      'plan-impossible',
      `the settings of the backup say that the data directory is "${dataDir}", in a file that postgresql.conf includes`,
      { hint: 'Remove data_directory there, or restore on a host without that file.' },
    )
  }
  const settings: Record<string, string> = {}
  const folders = await libraryFolders(place.bindir, (await ask('dynamic_library_path')) ?? '')
  for (const name of LIBRARIES) {
    const wanted = librariesOf((await ask(name)) ?? '')
    const kept = await keptLibraries(name, wanted, folders)
    if (kept.length < wanted.length) settings[name] = kept.join(', ')
  }
  const most = modestBuffers()
  const buffers = Number((await ask('shared_buffers')) ?? 0) * blockSize
  if (buffers > most * 1024 ** 2) settings['shared_buffers'] = `${most}MB`
  return settings
}

/**
 * Text of a postgresql.conf without a data_directory that is somewhere else: it would win over the folder
 * that the server is told to start in (src/backend/utils/misc/guc.c, SelectConfigFiles). Pure.
 */
export function withoutOtherPlace(text: string, dataDir: string): string {
  return text
    .split('\n')
    .map((line) => {
      const [setting] = parseConf(line).lines
      const isOther = setting?.name === 'data_directory' && setting.value !== dataDir
      return isOther ? `# not here: ${line}` : line
    })
    .join('\n')
}

/** Names in a setting such as shared_preload_libraries. Pure. */
function librariesOf(value: string): string[] {
  return value
    .split(',')
    .map((name) => name.trim().replace(/^"(.*)"$/, '$1'))
    .filter((name) => name !== '')
}

async function keptLibraries(
  setting: string,
  wanted: readonly string[],
  folders: readonly string[],
): Promise<string[]> {
  const kept: string[] = []
  for (const name of wanted) {
    const isHere = await hasLibrary(name, folders)
    if (isHere && !RUNNERS.has(name)) kept.push(name)
    else {
      const why = isHere ? 'does the work of the other cluster' : 'is not installed here'
      log('warning', `restore: library ${name} of ${setting} ${why}: the copy does without it`)
    }
  }
  return kept
}

/** As src/backend/utils/fmgr/dfmgr.c, expand_dynamic_library_name, looks for it. */
async function hasLibrary(name: string, folders: readonly string[]): Promise<boolean> {
  if (folders.length === 0) return true // nobody knows
  const plain = name.replace(/^\$libdir\//, '')
  const paths = plain.includes('/') ? [plain] : folders.map((folder) => join(folder, plain))
  for (const path of paths) if ((await exists(path)) || (await exists(`${path}.so`))) return true
  return false
}

/** Where libraries are; none when the programs do not say it. */
async function libraryFolders(bindir: string, path: string): Promise<string[]> {
  const own: string[] = []
  for (const folder of ['lib', 'lib/postgresql'].map((name) => join(dirname(bindir), name)))
    if (await exists(join(folder, 'plpgsql.so'))) own.push(folder)
  if (own.length === 0) return []
  return [...own, ...path.split(':').filter((folder) => folder.startsWith('/'))]
}

/** What a server in a data directory would start with, as it is stored: a number without its unit. */
async function settingOf(name: string, data: string, { bindir, osUser }: Place): Promise<string | undefined> {
  try {
    const { stdout } = await run([join(bindir, 'postgres'), '-C', name, '-D', data], {
      as: osUser,
      env: { LC_ALL: 'C' },
    })
    return stdout.replace(/\n$/, '')
  } catch (error) {
    if (!(error instanceof Fail) || error.code !== 'command-failed') throw error
    log('warning', `restore: the settings of the copy cannot be read: ${error.hint ?? error.message}`)
    return undefined
  }
}
