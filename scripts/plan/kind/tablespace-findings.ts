import { didYouMean } from '../../core/nearest.ts'
import type { Finding } from '../change.ts'
import type { Context } from '../kind.ts'
import type { Tablespace } from './tablespace.ts'
import { isInside, type Place } from './tablespace-place.ts'

type Said = readonly [level: Finding['level'], text: string, hint?: string]

/** What speaks against a tablespace: its options, and the place that it is to be in. */
export function tablespaceFindings(
  name: string,
  wanted: Tablespace,
  actual: Tablespace | undefined,
  context: Context,
): Finding[] {
  const isCreated = actual?.isCreated === true
  const said = [
    ...optionFindings(wanted),
    ...(isCreated ? createdFindings(wanted, actual) : []),
    ...(!isCreated && actual?.place ? placeFindings(name, wanted, actual.place, context) : []),
  ]
  return said.map(([level, text, hint]) => {
    const finding = { kind: 'tablespace', name, level, text }
    return hint === undefined ? finding : Object.assign(finding, { hint })
  })
}

// src/backend/access/common/reloptions.c, tablespace_reloptions.
const OPTIONS = [
  'seq_page_cost',
  'random_page_cost',
  'effective_io_concurrency',
  'maintenance_io_concurrency',
]

function optionFindings({ options }: Tablespace): Said[] {
  return options.flatMap(([option, value]): Said[] => {
    if (!OPTIONS.includes(option)) {
      return [['impossible', `there is no option "${option}"${didYouMean(option, OPTIONS)}`]]
    }
    const isNumber = value !== '' && Number(value) >= 0
    return isNumber ? [] : [['impossible', `option ${option} is a number, not ${JSON.stringify(value)}`]]
  })
}

function createdFindings(wanted: Tablespace, { location, place }: Tablespace): Said[] {
  if (location !== wanted.location) {
    const hint = `A move is up to you: make another tablespace, move what is in this one, or name "${location}".`
    return [['impossible', `it is at "${location}", the host file says "${wanted.location}"`, hint]]
  }
  if (!place) return []
  if (wanted.mount && !isMounted(place)) return [notMounted(wanted, place)]
  if (place.realPath === location) return []
  return [['warning', `"${location}" passes a symbolic link: its files are in "${place.realPath}"`]]
}

function placeFindings(name: string, wanted: Tablespace, place: Place, context: Context): Said[] {
  const { location } = wanted
  const wrong = wrongPlace(location, place, context)
  if (wrong) return [wrong]
  // src/backend/commands/tablespace.c, CreateTableSpace.
  if (location.includes("'")) return [['impossible', 'a location must not hold a single quote']]
  return [
    ...(wanted.mount && !isMounted(place) ? [notMounted(wanted, place)] : []),
    ...contentFindings(location, place, context),
    ...sharedFindings(name, location, context),
  ]
}

function wrongPlace(location: string, place: Place, { facts }: Context): Said | undefined {
  const paths = [location, place.realPath]
  if (paths.some((path) => isInside(path, facts.dataDir))) {
    const hint = 'Base backups and upgrades break with it: name a folder elsewhere.'
    return ['impossible', `"${location}" is inside of the data directory`, hint]
  }
  if (paths.some((path) => isInside(facts.dataDir, path))) {
    return ['impossible', `"${location}" holds the data directory`, 'Name a folder of its own.']
  }
  if (place.realPath !== location) {
    const hint = `Name the place itself: location = "${place.realPath}"`
    return ['impossible', `"${location}" passes a symbolic link`, hint]
  }
  if (place.state === 'other') return ['impossible', `"${location}" is no folder, or lies below a file`]
  if (place.mountPoint !== location) return undefined
  const hint = `Name a sub-directory, such as "${location === '/' ? '' : location}/postgres": without the mount it is not there, and nothing is written beside it.`
  return ['impossible', `"${location}" is the root of a mounted file system`, hint]
}

function contentFindings(location: string, place: Place, { facts }: Context): Said[] {
  const leftover = place.entries.find((entry) => entry.startsWith(`PG_${facts.major}_`))
  if (leftover !== undefined) {
    const hint =
      'An earlier tablespace left it, or another cluster uses it. Make sure of it, then move it away.'
    return [['impossible', `"${location}" holds "${leftover}" already`, hint]]
  }
  if (place.entries.length === 0 || place.owner === facts.osUser) return []
  const text = `"${location}" belongs to "${place.owner}" and is not empty`
  return [['impossible', text, `Name a folder of its own, or give it to ${facts.osUser}.`]]
}

function sharedFindings(name: string, location: string, { host }: Context): Said[] {
  const other = Object.entries(host.tablespaces).find(([otherName, { location: path }]) => {
    return otherName !== name && (isInside(location, path) || isInside(path, location))
  })
  if (!other) return []
  return [['impossible', `"${location}" is or holds the place of tablespace "${other[0]}", or lies in it`]]
}

// On the file system of the root, or of the data directory, it would be no one of its own.
function isMounted({ mountPoint, dataMountPoint }: Place): boolean {
  return mountPoint !== '/' && mountPoint !== dataMountPoint
}

function notMounted({ location }: Tablespace, { mountPoint }: Place): Said {
  const hint = `Mount it (findmnt --target ${location}), or leave mount out of the host file.`
  return ['impossible', `nothing is mounted for "${location}": it is on "${mountPoint}"`, hint]
}
