-- Whether this login sees the statements of everybody: as a superuser or with SYSLOG ACCESS UNRESTRICTED, or by how many
-- roles that may.
-- Source: documentation of SVV_USER_INFO, SVV_USER_GRANTS and of the system-defined roles.
-- Rights: none, of oneself. Provisioned and serverless.
select (select max(case when superuser or trim(syslog_access) = 'UNRESTRICTED' then 1 else 0 end)
        from svv_user_info where user_name = current_user),
       (select count(*) from svv_user_grants
        where user_name = current_user and role_name in ('sys:monitor', 'sys:operator', 'sys:dba', 'sys:superuser'))
