"""The five roles, as groups; a group that is there already gets what it lacks and loses nothing."""

from django.db import migrations

from workflow.roles import ROLES


def make_roles(apps, schema_editor):
    Group = apps.get_model("auth", "Group")
    Permission = apps.get_model("auth", "Permission")
    ContentType = apps.get_model("contenttypes", "ContentType")
    titles = {
        "order_stop": ("halt", "Can pause, drain, halt and kill Novas"),
        "lift_pause": ("halt", "Can resume paused and drained Novas"),
        "lift_halt": ("halt", "Can resume halted, killed and quarantined Novas, and lift safety verdicts"),
        "hear_events": ("nova", "Can hear what happens, as it happens"),
    }
    for role, names in ROLES.items():
        group, _ = Group.objects.get_or_create(name=role)
        for name in sorted(names):
            app, codename = name.split(".")
            if codename not in TITLED and not known(apps, app, codename):
                continue  # a later migration makes its table, and gives the roles their rights to it
            # Django makes permissions after all migrations; these are the same rows, made a little earlier
            model, title = titles.get(codename, (codename.split("_", 1)[1], ""))
            kind, _ = ContentType.objects.get_or_create(app_label=app, model=model)
            verb = codename.split("_", 1)[0]
            shown = title or f"Can {verb} {verbose_name(apps, app, model)}"
            permission, _ = Permission.objects.get_or_create(
                content_type=kind, codename=codename, defaults={"name": shown}
            )
            group.permissions.add(permission)


TITLED = ("order_stop", "lift_pause", "lift_halt", "hear_events")


def known(apps, app, codename):
    return codename.split("_", 1)[1] in apps.all_models[app]


def verbose_name(apps, app, model):
    return apps.get_model(app, model)._meta.verbose_name


class Migration(migrations.Migration):
    dependencies = [
        ("workflow", "0002_control"),
        ("safety", "0002_control"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(make_roles, migrations.RunPython.noop)]
