import { colour } from '../core/log.ts'
import type { InstallPlan } from './install.ts'

const SYMBOLS = { create: '+', change: '~', remove: '-' } as const
const COLOURS = { create: 'green', change: 'yellow', remove: 'red' } as const

/** What an installation would do, a line each; empty when nothing. */
export function showInstallPlan({ program, files, actions, findings }: InstallPlan): string {
  const isProgramNew = program !== undefined && !(program.isThere && program.isCurrent)
  const lines = [
    ...(isProgramNew ? [`${symbol('create')} program ${program.path}`] : []),
    ...files.map(
      ({ action, path, isEdited }) => `${symbol(action)} ${path}${isEdited ? ' [replaces-edited-unit]' : ''}`,
    ),
    ...actions.start.map((name) => `${symbol('change')} start ${name}`),
    ...actions.enable
      .filter((name) => !actions.start.includes(name) && !actions.restart.includes(name))
      .map((name) => `${symbol('change')} enable ${name}`),
    ...actions.restart.map((name) => `${symbol('change')} restart ${name}`),
    ...(actions.reload && files.length === 0 ? [`${symbol('change')} systemd reads its units again`] : []),
  ]
  return [...lines, ...findings.map((finding) => `${colour('yellow', '!')} ${finding}`)].join('\n')
}

function symbol(action: keyof typeof SYMBOLS): string {
  return colour(COLOURS[action], SYMBOLS[action])
}
