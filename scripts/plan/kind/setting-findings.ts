import { formatSize, parseSize } from '../../core/quantity.ts'
import type { ConfLine } from '../../host/conf.ts'
import type { Finding } from '../change.ts'
import { canonicalValue, valueProblem } from '../guc.ts'
import type { Context } from '../kind.ts'
import { laterValue, type ServerSetting, type SettingsSeen } from './setting-seen.ts'

type Say = (level: Finding['level'], text: string, hint?: string) => Finding

/**
 * What a person should know of the settings of a host file: what cannot be, and what will not take
 * effect.
 * @param name the change that these findings belong to
 */
export function settingFindings(
  name: string,
  wanted: readonly ConfLine[],
  seen: SettingsSeen | undefined,
  { host }: Context,
): Finding[] {
  const say: Say = (level, text, hint) => ({ kind: 'setting', name, level, text, ...(hint && { hint }) })
  if (host.postgres.kind === 'remote') {
    if (wanted.length === 0) return []
    const hint = 'Take [settings] out of the host file, and set them where the server is run.'
    return [say('impossible', 'a remote cluster has no files that could be written', hint)]
  }
  const refused = wanted.flatMap((line) => refusal(say, line))
  if (!seen) return refused
  const others = wanted.filter((line) => refusal(say, line).length === 0)
  const isOther = ({ name }: { name: string }) => others.some((line) => line.name === name)
  return [
    ...refused,
    ...seen.errors.map((error) => brokenFile(say, error)),
    ...seen.unknown.filter(isOther).flatMap((unknown) => unknownName(say, unknown, wanted, seen)),
    ...others.flatMap((line) => valueFindings(say, line, seen)),
    ...walTooBig(say, wanted, seen),
  ]
}

const ELSEWHERE: Readonly<Record<string, string>> = {
  port: 'postgres.port',
  unix_socket_directories: 'postgres.socket_dir',
  data_directory: 'postgres.data_dir',
}

// Set from one of its own files, these would move the files from under the feet of whoever manages them.
const FIXED = new Set([
  'config_file',
  'hba_file',
  'ident_file',
  'include',
  'include_dir',
  'include_if_exists',
])

function refusal(say: Say, { name, value }: ConfLine): Finding[] {
  if (value.includes('\0')) return [say('impossible', `${name}: a value must not hold a NUL byte`)]
  if (FIXED.has(name))
    return [say('impossible', `${name}: where files are is not a setting of the host file`)]
  if (!Object.hasOwn(ELSEWHERE, name)) return []
  return [say('impossible', `${name}: it is set by ${ELSEWHERE[name]} in the host file, not here`)]
}

function brokenFile(say: Say, error: string): Finding {
  const hint = 'Correct that file: until then the server takes over nothing, and would not start again.'
  return say('impossible', error, hint)
}

function unknownName(
  say: Say,
  { name, near }: SettingsSeen['unknown'][number],
  wanted: readonly ConfLine[],
  seen: SettingsSeen,
): Finding[] {
  const hint = near === undefined ? undefined : `Did you mean "${near}"?`
  if (!name.includes('.')) return [say('impossible', `${name}: the server knows no such setting`, hint)]
  if (comesWithLibrary(name, wanted, seen)) return []
  return [say('warning', `${name}: no library that is loaded knows it, so the server takes any name`, hint)]
}

// Of a library that is about to be loaded the server knows no settings yet.
function comesWithLibrary(name: string, wanted: readonly ConfLine[], seen: SettingsSeen): boolean {
  const prefix = name.slice(0, name.indexOf('.'))
  return wanted.some(({ name, value }) => {
    if (!name.endsWith('_preload_libraries') || !libraries(value).has(prefix)) return false
    return !libraries(seen.gucs.get(name)?.setting ?? '').has(prefix)
  })
}

function libraries(value: string): Set<string> {
  return new Set(value.split(',').map((part) => part.trim().replaceAll('"', '').replace(/^.*\//, '')))
}

function valueFindings(say: Say, line: ConfLine, seen: SettingsSeen): Finding[] {
  const guc = seen.gucs.get(line.name)
  if (!guc) return []
  if (guc.context === 'internal') {
    return [say('impossible', `${line.name}: it tells how the server was built or the cluster was made`)]
  }
  const problem = valueProblem(guc, line.value)
  if (problem !== undefined) return [say('impossible', `${line.name}: ${problem}`)]
  return shadows(say, line, guc, seen)
}

function shadows(say: Say, { name, value }: ConfLine, guc: ServerSetting, seen: SettingsSeen): Finding[] {
  if (guc.source === 'command line') {
    if (canonicalValue(guc, guc.setting) === canonicalValue(guc, value)) return []
    const hint = 'Take it out of where the server is started: a unit, pg_ctl.conf, a script.'
    return [
      say('warning', `${name}: shadowed by the command line of the server, which says ${guc.shown}`, hint),
    ]
  }
  const later = laterValue(seen, name, value)
  if (!later) return []
  const isSystem = later.file.endsWith('/postgresql.auto.conf')
  return [
    isSystem
      ? say(
          'warning',
          `${name}: shadowed by ALTER SYSTEM, which says ${later.value}`,
          `Run: alter system reset ${name}`,
        )
      : say(
          'warning',
          `${name}: shadowed by ${later.file}:${later.line}, which says ${later.value}`,
          'Take that line out.',
        ),
  ]
}

function walTooBig(say: Say, wanted: readonly ConfLine[], { walBytes }: SettingsSeen): Finding[] {
  const text = wanted.find(({ name }) => name === 'max_wal_size')?.value
  const bytes =
    text === undefined ? undefined : /^\d+$/.test(text) ? Number(text) * 1024 ** 2 : parseSize(text)
  if (bytes === undefined || walBytes === undefined || bytes <= walBytes / 2) return []
  const room = `the file system of the WAL has ${formatSize(walBytes)} in all`
  return [say('warning', `max_wal_size: ${text} is more than half of what there is: ${room}`)]
}
