/**
 * Queries of what belongs to the whole cluster; each gives kind, name and value as text.
 *
 * A password is there as its kind and two bytes of a digest: enough to see that it is another one, too
 * little to guess it by. Before 16 a membership inherits when its member does, and lets it SET ROLE.
 * @param major of the server that is asked
 */
export function globalQueries(major: number): string[] {
  const options =
    major >= 16
      ? `format('admin %s, inherit %s, set %s', m.admin_option, m.inherit_option, m.set_option)`
      : `format('admin %s, inherit %s, set %s', m.admin_option, r.rolinherit, true)`
  return [
    ROLES,
    `select 'membership', format('%I in %I', r.rolname, g.rolname), ${options}
      from pg_auth_members m join pg_roles r on r.oid = m.member join pg_roles g on g.oid = m.roleid`,
    GRANTORS,
    SETTINGS,
    TABLESPACES,
    databases(major),
    ...(major >= 15 ? [icuLocales(major)] : []),
    grants('database', 'pg_database', 'dat', 'd'),
    grants('tablespace', 'pg_tablespace', 'spc', 't'),
    ...(major >= 15 ? [PARAMETER_GRANTS] : []),
    `select 'comment', format('%s %s', o.type, o.identity), d.description from pg_shdescription d,
      lateral pg_identify_object(d.classoid, d.objoid, 0) o`,
    `select 'security label', format('%s %s by %s', o.type, o.identity, d.provider), d.label
      from pg_shseclabel d, lateral pg_identify_object(d.classoid, d.objoid, 0) o`,
  ]
}

const ROLES = `
  select 'role', format('%I', rolname), format(
    'superuser %s, inherit %s, createrole %s, createdb %s, login %s, replication %s, bypassrls %s, limit %s, until %s, password %s',
    rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
    coalesce(rolvaliduntil::text, 'ever'), coalesce(case when rolpassword like 'md5%' then 'md5' else 'scram' end
      || ' ' || left(encode(sha256(convert_to(rolpassword, 'UTF8')), 'hex'), 4), 'none'))
  from pg_authid where rolname !~ '^pg_'`

// Apart from the membership: what it means changed with 16, whose pg_dumpall leaves it out of older clusters.
const GRANTORS = `
  select 'membership grantor', format('%I in %I', r.rolname, g.rolname), quote_ident(o.rolname)
  from pg_auth_members m join pg_roles r on r.oid = m.member join pg_roles g on g.oid = m.roleid
  left join pg_roles o on o.oid = m.grantor`

const SETTINGS = `
  select 'setting', format('%s of %s in %s', split_part(s, '=', 1),
      coalesce(quote_ident(r.rolname), 'every role'), coalesce(quote_ident(d.datname), 'every database')),
    substr(s, strpos(s, '=') + 1)
  from pg_db_role_setting c cross join unnest(c.setconfig) s
  left join pg_roles r on r.oid = c.setrole left join pg_database d on d.oid = c.setdatabase`

const TABLESPACES = `
  select 'tablespace', format('%I', spcname), format('%s, owner %I, %s', pg_tablespace_location(oid),
    pg_get_userbyid(spcowner), array_to_string(spcoptions, ', '))
  from pg_tablespace where spcname !~ '^pg_'`

const PARAMETER_GRANTS = `
  select 'grant', format('parameter %s: %s to %s', p.parname, a.privilege_type,
    case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end),
    format('grantable %s', a.is_grantable)
  from pg_parameter_acl p cross join aclexplode(p.paracl) a`

/** Columns of the locale: 15 brought the provider, 16 its rules, 17 gave the locale its wider name. */
function databases(major: number): string {
  const locale = major >= 17 ? `case d.datlocprovider when 'b' then d.datlocale end` : 'null'
  const provider = major >= 15 ? 'd.datlocprovider' : `'c'`
  return `
    select 'database', format('%I', d.datname), format(
      'owner %I, encoding %s, collate %s, ctype %s, provider %s, locale %s, rules %s, template %s, connect %s, limit %s, tablespace %I',
      pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, ${provider}, ${locale},
      ${major >= 16 ? 'd.daticurules' : 'null'}, d.datistemplate, d.datallowconn, d.datconnlimit, t.spcname)
    from pg_database d join pg_tablespace t on t.oid = d.dattablespace`
}

function icuLocales(major: number): string {
  return `select 'ICU locale', format('database %I', d.datname), d.${major >= 17 ? 'datlocale' : 'daticulocale'}
    from pg_database d where d.datlocprovider = 'i'`
}

function grants(kind: string, catalog: string, prefix: string, letter: string): string {
  return `
    select 'grant', format('${kind} %I: %s to %s', c.${prefix}name, a.privilege_type,
      case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end),
      format('grantable %s', a.is_grantable)
    from ${catalog} c
    cross join aclexplode(coalesce(c.${prefix}acl, acldefault('${letter}', c.${prefix === 'dat' ? 'datdba' : 'spcowner'}))) a`
}
