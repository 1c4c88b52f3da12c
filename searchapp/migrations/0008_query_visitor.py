from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("searchapp", "0007_query_sums"),
    ]

    operations = [
        migrations.AddField(
            model_name="query",
            name="visitor_hash",
            field=models.CharField(
                blank=True,
                default="",
                help_text="who asked, as one trial alone tells visitors apart",
                max_length=16,
            ),
        ),
    ]
